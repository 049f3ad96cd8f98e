// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// annotate sets an annotation of the Kubernetes object in text. It changes the syntax tree, so that comments and order stay.
func annotate(text []byte, key, value string) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("reading the manifest: it is not an object")
	}
	node := document.Content[0]
	for _, name := range []string{"metadata", "annotations"} {
		child := member(node, name)
		if child == nil || child.Kind == yaml.ScalarNode && child.Tag == "!!null" {
			child = set(node, name, &yaml.Node{Kind: yaml.MappingNode})
		}
		if child.Kind != yaml.MappingNode {
			return nil, fmt.Errorf("reading the manifest: its %s is not an object", name)
		}
		node = child
	}
	set(node, key, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value})
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&document), e.Close()); err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	return out.Bytes(), nil
}

// member returns the value of a key of a mapping, nil if it is not there. Keys and values alternate in a mapping's content.
func member(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// set puts a value under a key of a mapping, over what was there, and returns it.
func set(mapping *yaml.Node, key string, value *yaml.Node) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			mapping.Content[i+1] = value
			return value
		}
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
	return value
}
