// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// annotate sets an annotation of the Pod in text: the one object of that kind among its documents, or the items of its list. It
// changes the syntax tree, so that comments and order stay.
func annotate(text []byte, key, value string) ([]byte, error) {
	var documents, pods []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		document := &yaml.Node{}
		if err := d.Decode(document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading the manifest: %w", err)
		}
		if len(document.Content) == 0 || document.Content[0].Tag == "!!null" {
			continue // an empty document
		}
		if document.Content[0].Kind != yaml.MappingNode {
			return nil, errors.New("reading the manifest: it is not an object")
		}
		documents = append(documents, document)
		pods = append(pods, podsIn(document.Content[0])...)
	}
	if len(pods) != 1 {
		return nil, fmt.Errorf("reading the manifest: %d Pods in it, want one", len(pods))
	}
	if err := annotateObject(pods[0], key, value); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	for _, document := range documents {
		if err := e.Encode(document); err != nil {
			return nil, fmt.Errorf("writing the manifest: %w", err)
		}
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	return out.Bytes(), nil
}

// podsIn returns an object if it is a Pod, or those in its items.
func podsIn(object *yaml.Node) []*yaml.Node {
	kind := member(object, "kind")
	items := member(object, "items")
	switch {
	case kind == nil:
		return nil
	case kind.Value == "Pod":
		return []*yaml.Node{object}
	case kind.Value != "List" || items == nil:
		return nil
	}
	var pods []*yaml.Node
	for _, item := range items.Content {
		if item.Kind == yaml.MappingNode {
			pods = append(pods, podsIn(item)...)
		}
	}
	return pods
}

func annotateObject(node *yaml.Node, key, value string) error {
	for _, name := range []string{"metadata", "annotations"} {
		child := member(node, name)
		if child == nil || child.Kind == yaml.ScalarNode && child.Tag == "!!null" {
			child = set(node, name, &yaml.Node{Kind: yaml.MappingNode})
		}
		if child.Kind != yaml.MappingNode {
			return fmt.Errorf("reading the manifest: its %s is not an object", name)
		}
		node = child
	}
	set(node, key, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value})
	return nil
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
