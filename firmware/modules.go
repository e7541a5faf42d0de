package firmware

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/newc"
)

// early lists the modules that the link needs, where the board's virtio devices are on that bus. The
// agent loads them before anything else.
func early(bus arch.Bus) []string { return []string{"virtio_" + string(bus), "virtio_net"} }

// late lists the modules that every card needs next, in this order: its other devices, and
// forwarding with NAT. The agent loads them from its list, unless the kernel has requested them
// before. nf_tables needs an implementation of crc32c, which no symbol shows.
var late = []string{
	"crc32c_generic", "nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "virtio_rng", "virtio_blk",
}

// disk lists what a card with a root on a disk needs before it.
var disk = []string{"virtio_blk", "ext4"}

// endpoint lists the additional modules of mode: endpoint. The agent loads them from a separate
// list when it starts that mode. This delays no card's start, and saves a request by the kernel for
// each module.
var endpoint = []string{
	"nfnetlink_queue", "nft_queue", "nft_tproxy", "nft_socket", "nft_fib_inet", "nft_reject_inet", "tcp_diag",
}

// onDemand lists modules for modprobe and the kernel's own requests.
var onDemand = []string{
	"nft_nat", "nft_redir", "nft_reject_ipv4", "nft_reject_ipv6", "nft_log", "nft_limit",
	"nft_fib_ipv4", "nft_fib_ipv6",
	"nft_flow_offload", "nf_flow_table_inet", "nf_conntrack_netlink", "nf_log_syslog",
	"wireguard", "esp4", "esp6", "xfrm_user", "gcm", "seqiv", "echainiv", "ctr", "cbc",
	"ghash_generic", "ghash-clmulni-intel", "aesni-intel", "sha256_generic", "sha256", "hmac", "authenc",
	"sch_netem", "sch_fq", "tcp_bbr", "udp_diag", "unix_diag",
	"tun", "veth", "dummy", "overlay", "squashfs", "ext4",
}

// optional lists modules that a kernel may lack under that name: crypto modules are renamed and
// merged between versions, and virtio_ccw is never a module.
var optional = []string{
	"virtio_ccw", "crc32c_generic",
	"sha256_generic", "sha256", "ghash_generic", "ghash-clmulni-intel", "aesni-intel",
	"ctr", "cbc", "gcm", "seqiv", "echainiv", "hmac", "authenc", "unix_diag",
}

// module is one kernel module of a package, decompressed.
type module struct {
	name    string // with underscores
	path    string // below /lib/modules/RELEASE
	data    []byte
	depends []string
	aliases []string
}

// moduleTree is the content of a kernel package below /usr/lib/modules/RELEASE.
type moduleTree struct {
	release string
	files   map[string][]byte // path below it → contents, as packed
	byName  map[string]string // module name → path
	builtin map[string]bool
	loaded  map[string]*module
}

func newModuleTree(release string, files map[string][]byte) *moduleTree {
	t := &moduleTree{release: release, files: files, byName: map[string]string{}, builtin: map[string]bool{}, loaded: map[string]*module{}}
	for name := range files {
		if strings.Contains(path.Base(name), ".ko") {
			t.byName[moduleName(name)] = name
		}
	}
	for line := range strings.Lines(string(files["modules.builtin"])) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return t
}

// moduleName returns the name of a module file: kernel/net/esp4-x.ko.xz is esp4_x.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// pick returns the modules of names that are not built in, each after its dependencies.
func (t *moduleTree) pick(ctx context.Context, names []string) ([]*module, error) {
	var picked []*module
	seen := map[string]bool{}
	var visit func(name, neededBy string) error
	visit = func(name, neededBy string) error {
		name = moduleName(name)
		if seen[name] || t.builtin[name] {
			return nil
		}
		seen[name] = true
		m, err := t.load(ctx, name)
		if err != nil {
			if neededBy == "" && slices.ContainsFunc(optional, func(o string) bool { return moduleName(o) == name }) && errors.Is(err, errNoModule) {
				return nil
			}
			return fmt.Errorf("kernel %s: module %s, needed by %s: %w", t.release, name, orElse(neededBy, "a card"), err)
		}
		for _, d := range m.depends {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		picked = append(picked, m)
		return nil
	}
	for _, name := range names {
		if err := visit(name, ""); err != nil {
			return nil, err
		}
	}
	return picked, nil
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

var errNoModule = errors.New("the package has no such module")

func (t *moduleTree) load(ctx context.Context, name string) (*module, error) {
	if m := t.loaded[name]; m != nil {
		return m, nil
	}
	file, ok := t.byName[name]
	if !ok {
		return nil, errNoModule
	}
	data := t.files[file]
	if strings.HasSuffix(file, ".xz") {
		var err error
		if data, err = unxz(ctx, data); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	} else if !strings.HasSuffix(file, ".ko") {
		return nil, fmt.Errorf("%s: only .ko and .ko.xz can be read", file)
	}
	m, err := parseModule(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	m.name, m.path = name, strings.TrimSuffix(file, ".xz")
	t.loaded[name] = m
	return m, nil
}

// parseModule reads the .modinfo section: NUL-terminated NAME=VALUE strings.
func parseModule(data []byte) (*module, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf(".modinfo: %w", err)
	}
	m := &module{data: data}
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			m.depends = append(m.depends, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "alias":
			m.aliases = append(m.aliases, value)
		}
	}
	return m, nil
}

// moduleFiles returns the modules of a card and their indexes: modules.dep and modules.alias for
// modprobe, and load.list, late.list, disk.list and endpoint.list for the agent. These name what it
// loads at once, later, before a root on a disk, and for mode: endpoint, in order, as paths below
// /lib/modules/RELEASE.
func (t *moduleTree) moduleFiles(ctx context.Context, bus arch.Bus) ([]newc.File, error) {
	early := early(bus)
	first, err := t.pick(ctx, early)
	if err != nil {
		return nil, err
	}
	both, err := t.pick(ctx, slices.Concat(early, late))
	if err != nil {
		return nil, err
	}
	three, err := t.pick(ctx, slices.Concat(early, late, endpoint))
	if err != nil {
		return nil, err
	}
	all, err := t.pick(ctx, slices.Concat(early, late, endpoint, onDemand))
	if err != nil {
		return nil, err
	}
	root := "/lib/modules/" + t.release
	forDisk, err := t.pick(ctx, disk)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *module) int { return strings.Compare(a.path, b.path) })
	dep, alias := t.indexes(all)
	files := []newc.File{
		newc.Regular("/lib/modules/load.list", 0o644, paths(first)),
		newc.Regular("/lib/modules/late.list", 0o644, paths(both[len(first):])),
		newc.Regular("/lib/modules/disk.list", 0o644, paths(forDisk)),
		newc.Regular("/lib/modules/endpoint.list", 0o644, paths(three[len(both):])),
		newc.Regular(root+"/modules.dep", 0o644, dep),
		newc.Regular(root+"/modules.alias", 0o644, alias),
		newc.Regular(root+"/modules.builtin", 0o644, t.files["modules.builtin"]),
	}
	for _, m := range all {
		files = append(files, newc.Regular(root+"/"+m.path, 0o644, m.data))
	}
	return files, nil
}

func paths(modules []*module) []byte {
	var b bytes.Buffer
	for _, m := range modules {
		fmt.Fprintln(&b, m.path)
	}
	return b.Bytes()
}

// indexes returns what depmod would write. modules.dep names all dependencies of a module, the
// nearest first.
func (t *moduleTree) indexes(all []*module) (dep, alias []byte) {
	var d, a bytes.Buffer
	for _, m := range all {
		fmt.Fprintf(&d, "%s:", m.path)
		for _, need := range t.needs(m) {
			fmt.Fprintf(&d, " %s", need.path)
		}
		d.WriteByte('\n')
		for _, pattern := range m.aliases {
			fmt.Fprintf(&a, "alias %s %s\n", pattern, m.name)
		}
	}
	return d.Bytes(), a.Bytes()
}

func (t *moduleTree) needs(m *module) []*module {
	var all []*module
	seen := map[string]bool{}
	var visit func(*module)
	visit = func(m *module) {
		for _, name := range m.depends {
			n := t.loaded[moduleName(name)]
			if n == nil || seen[n.name] {
				continue
			}
			seen[n.name] = true
			visit(n)
			all = append(all, n)
		}
	}
	visit(m)
	slices.Reverse(all)
	return all
}
