package apt

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// source is one archive that the host's apt uses.
type source struct {
	uri        string
	suites     []string
	components []string
	signedBy   string
}

// sources are the lines of the root's sources.list, those of the security suite apart.
func (o Options) sources(ctx context.Context) (suites, updates []string, err error) {
	if strings.ContainsAny(o.Keyring+o.Dir, " \t\n\"]") {
		return nil, nil, fmt.Errorf("private apt root %q with keyring %q: apt takes no path with spaces or quotes", o.Dir, o.Keyring)
	}
	main, security, err := o.mirrors(ctx)
	if err != nil {
		return nil, nil, err
	}
	line := func(uri, suite string) string {
		return fmt.Sprintf("deb [signed-by=%s] %s %s main", o.Keyring, uri, suite)
	}
	for _, suite := range o.Suites {
		suites = append(suites, line(main, suite))
	}
	if security != "" && o.Security != "" {
		updates = append(updates, line(security, o.Security))
	}
	return suites, updates, nil
}

func (o Options) mirrors(ctx context.Context) (main, security string, err error) {
	if o.Mirror != "" {
		return o.Mirror, "", checkURI(o.Mirror)
	}
	all, err := hostSources(ctx)
	if err != nil {
		return "", "", err
	}
	main, security = pickMirrors(all)
	if main == "" {
		return "", "", fmt.Errorf("%w: the host's apt sources name none for Debian main; give one with --mirror URL", ErrNoMirror)
	}
	return main, security, nil
}

// mirrorURI is what may stand in a sources.list without quoting.
var mirrorURI = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:[^\s\[\]"'\\]+$`)

func checkURI(uri string) error {
	if !mirrorURI.MatchString(uri) || strings.HasPrefix(uri, "cdrom:") {
		return fmt.Errorf("mirror %q: want a URL such as http://HOST/debian", uri)
	}
	return nil
}

// pickMirrors returns the first Debian archive and the first Debian security archive. Archives of
// others use Debian's suite names too, so one that looks like Debian's own goes first.
func pickMirrors(all []source) (main, security string) {
	for _, looksLike := range []func(source) bool{source.debianOwn, func(source) bool { return true }} {
		for _, s := range all {
			if !s.debianMain() || !looksLike(s) || checkURI(s.uri) != nil {
				continue
			}
			if s.isSecurity() {
				security = orElse(security, s.uri)
			} else {
				main = orElse(main, s.uri)
			}
		}
		if main != "" {
			break
		}
	}
	return main, security
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

var debianSuite = regexp.MustCompile(`^(oldoldstable|oldstable|stable|testing|unstable|sid|buster|bullseye|bookworm|trixie|forky|duke)` +
	`(-updates|-proposed-updates|-backports|-security|/updates)?$`)

func (s source) debianMain() bool {
	return slices.Contains(s.components, "main") && slices.ContainsFunc(s.suites, debianSuite.MatchString)
}

func (s source) debianOwn() bool {
	if s.signedBy != "" {
		return strings.Contains(s.signedBy, "debian-archive")
	}
	name := path.Base(strings.TrimRight(s.uri, "/"))
	return name == "debian" || name == "debian-security"
}

func (s source) isSecurity() bool {
	return slices.ContainsFunc(s.suites, func(suite string) bool {
		return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
	})
}

// hostSources reads the host's sources in apt's order.
func hostSources(ctx context.Context) ([]source, error) {
	out, err := output(ctx, nil, "apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
	if err != nil {
		return nil, err
	}
	vars := shellVars(out)
	names := []string{vars["LIST"]}
	for _, glob := range []string{"*.list", "*.sources"} {
		parts, _ := filepath.Glob(filepath.Join(vars["PARTS"], glob)) // the pattern is well-formed
		names = append(names, parts...)
	}
	var all []source
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			if os.IsNotExist(err) || os.IsPermission(err) || name == "" {
				continue
			}
			if info, statErr := os.Stat(name); statErr == nil && info.Mode().Type() == fs.ModeDir {
				continue
			}
			return nil, fmt.Errorf("the host's apt sources: %w", err)
		}
		if strings.HasSuffix(name, ".sources") {
			all = append(all, parseDeb822(string(text))...)
		} else {
			all = append(all, parseList(string(text))...)
		}
	}
	return all, nil
}

// shellVars parses the assignments that apt-config shell prints.
func shellVars(out string) map[string]string {
	vars := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok {
			vars[name] = strings.Trim(value, "'")
		}
	}
	return vars
}

// parseList reads the one-line format of sources.list(5). Lines that apt
// would refuse are passed over: they are apt's to complain about.
func parseList(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		if kind != "deb" {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, _ := strings.Cut(rest[1:], "]")
			rest = after
			for _, option := range strings.Fields(options) {
				if by, ok := strings.CutPrefix(option, "signed-by="); ok {
					s.signedBy = by
				}
			}
		}
		words := strings.Fields(rest)
		if len(words) < 3 {
			continue
		}
		s.uri, s.suites, s.components = words[0], words[1:2], words[2:]
		all = append(all, s)
	}
	return all
}

// parseDeb822 reads the stanzas of a .sources file, sources.list(5). A stanza
// with several URIs or suites becomes one source for each URI and suite.
func parseDeb822(text string) []source {
	var all []source
	for _, f := range stanzas(text) {
		if !slices.Contains(strings.Fields(f["types"]), "deb") || isNo(f["enabled"]) {
			continue
		}
		for _, uri := range strings.Fields(f["uris"]) {
			for _, suite := range strings.Fields(f["suites"]) {
				all = append(all, source{
					uri: uri, suites: []string{suite},
					components: strings.Fields(f["components"]), signedBy: f["signed-by"],
				})
			}
		}
	}
	return all
}

func isNo(value string) bool {
	return slices.Contains([]string{"no", "false", "off", "0", "without", "disable"}, strings.ToLower(value))
}

// stanzas parses paragraphs of "Field: value" with continuation lines; field
// names come out in lower case.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	current, field := map[string]string{}, ""
	flush := func() {
		if len(current) > 0 {
			all = append(all, current)
		}
		current, field = map[string]string{}, ""
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				current[field] += "\n" + strings.TrimSpace(line)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if ok {
				field = strings.ToLower(strings.TrimSpace(name))
				current[field] = strings.TrimSpace(value)
			}
		}
	}
	flush()
	return all
}

// wayThere are the settings of the host that say how to reach the mirror.
// Nothing that weakens verification is among them.
var wayThere = regexp.MustCompile(`^Acquire::((http|https|ftp|tor\+https?|socks)(::.*)?|ForceIPv[46]|Retries|Queue-Mode|Send-URI-Encoded) "`)

var weakening = regexp.MustCompile(`(?i)::(Verify-Peer|Verify-Host|AllowRedirect|AllowDowngrade)`)

func hostSettings(ctx context.Context) ([]string, error) {
	out, err := output(ctx, nil, "apt-config", "dump", "--no-empty", "Acquire")
	if err != nil {
		return nil, err
	}
	return keepSettings(out), nil
}

func keepSettings(dump string) []string {
	var keep []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		if wayThere.MatchString(line) && !weakening.MatchString(line) {
			keep = append(keep, line)
		}
	}
	return keep
}
