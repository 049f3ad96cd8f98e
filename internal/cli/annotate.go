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

// annotate sets an annotation of the Pod in text: the one object with a pod template among its documents, or the items of its list.
func annotate(text []byte, key, value string) ([]byte, error) {
	found := 0
	out, err := editTemplates(text, func(_ int, template *yaml.Node) error {
		found++
		return annotateObject(template, key, value)
	})
	if err == nil && found != 1 {
		return nil, fmt.Errorf("reading the manifest: %d Pods in it, want one", found)
	}
	return out, err
}

// editTemplates changes the pod templates in text, which edit gets with their numbers. It changes the syntax tree, so that comments and
// order stay.
func editTemplates(text []byte, edit func(i int, template *yaml.Node) error) ([]byte, error) {
	var documents, templates []*yaml.Node
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
		templates = append(templates, templatesIn(document.Content[0])...)
	}
	for i, template := range templates {
		if err := edit(i, template); err != nil {
			return nil, err
		}
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

// templatesIn returns the pod template of an object, or those in its items.
func templatesIn(object *yaml.Node) []*yaml.Node {
	kind := member(object, "kind")
	if kind == nil {
		return nil
	}
	var path []string
	switch kind.Value {
	case "Pod":
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job":
		path = []string{"spec", "template"}
	case "CronJob":
		path = []string{"spec", "jobTemplate", "spec", "template"}
	case "List":
		var all []*yaml.Node
		if items := member(object, "items"); items != nil {
			for _, item := range items.Content {
				if item.Kind == yaml.MappingNode {
					all = append(all, templatesIn(item)...)
				}
			}
		}
		return all
	default:
		return nil
	}
	for _, name := range path {
		if object = member(object, name); object == nil || object.Kind != yaml.MappingNode {
			return nil
		}
	}
	return []*yaml.Node{object}
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
