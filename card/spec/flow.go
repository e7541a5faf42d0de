package spec

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// flowYAML writes a value on one line.
func flowYAML(v any) (string, error) {
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return "", err
	}
	n.Style = yaml.FlowStyle
	data, err := yaml.Marshal(&n)
	return strings.Join(strings.Fields(string(data)), " "), err
}
