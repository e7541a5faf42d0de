package service

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/toe-project/toe/feature"
)

// A secret is named in card.yaml, and is not in it: {file: PATH} or {env: NAME}. It goes from there
// to the card's memory, in card.json, as the card's keys do.

const (
	wantSecret = "{file: PATH} or {env: NAME}"
	maxSecret  = 64 << 10 // bytes
	// Hidden stands for a secret in what people read.
	Hidden = "********"
)

// secretSource is where a secret is: the name of a file or of a variable.
func secretSource(v any) (file, env string, ok bool) {
	m, _ := v.(map[string]any)
	if len(m) != 1 {
		return "", "", false
	}
	file, isFile := m["file"].(string)
	env, isEnv := m["env"].(string)
	return file, env, isFile && file != "" || isEnv && env != ""
}

// checkSecret reads it, so that what is missing is an error before anything changes.
func checkSecret(at string, v any, report feature.Report) {
	if _, _, ok := secretSource(v); !ok {
		report(at, "want %s: a secret is not written into card.yaml", wantSecret)
	} else if _, err := readSecret(v); err != nil {
		report(at, "%v", err)
	}
}

// readSecret returns the secret without white space around it. An absent one is empty.
func readSecret(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	file, env, ok := secretSource(v)
	if !ok {
		return "", errors.New("want " + wantSecret)
	}
	if env != "" {
		value := strings.TrimSpace(os.Getenv(env))
		if value == "" {
			return "", fmt.Errorf("the environment has no %s", env)
		}
		return value, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	data = bytes.TrimSpace(data)
	switch {
	case err != nil:
		return "", err
	case len(data) == 0 || len(data) > maxSecret:
		return "", fmt.Errorf("%s: want a secret of 1 to %d bytes", file, maxSecret)
	}
	return string(data), nil
}

// Absolute makes the paths of files with secrets absolute: base is the folder of card.yaml.
func Absolute(v any, base string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			Absolute(e, base)
		}
	case map[string]any:
		if file, _, ok := secretSource(v); ok && file != "" && !filepath.IsAbs(file) {
			v["file"] = filepath.Join(base, file)
			return
		}
		for _, e := range v {
			Absolute(e, base)
		}
	}
}
