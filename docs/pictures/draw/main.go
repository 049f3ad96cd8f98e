// SPDX-License-Identifier: Apache-2.0

// Command draw makes an SVG of each Graphviz source in the current folder, and writes the source's SHA-256 into the SVG's head so that a
// test can tell a stale picture without drawing it.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	sources, err := filepath.Glob("*.dot")
	if err != nil || len(sources) == 0 {
		fatal(errors.Join(errors.New("no .dot file in the current folder"), err))
	}
	for _, source := range sources {
		if err := draw(source); err != nil {
			fatal(err)
		}
	}
}

func draw(source string) error {
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	svg, err := exec.CommandContext(context.Background(), "dot", "-Tsvg", source).Output()
	if err != nil {
		return fmt.Errorf("drawing %s (is graphviz installed?): %w", source, err)
	}
	_, body, found := bytes.Cut(svg, []byte("<svg"))
	if !found {
		return fmt.Errorf("drawing %s: graphviz made no <svg> element", source)
	}
	head := fmt.Sprintf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- made of %s, sha256 %x -->\n<svg", source, sha256.Sum256(text))
	return os.WriteFile(strings.TrimSuffix(source, ".dot")+".svg", append([]byte(head), body...), 0o644)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "draw:", err)
	os.Exit(1)
}
