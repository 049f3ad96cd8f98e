// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// checkReproducible builds the image, then a second time in other directories and with an empty Go build cache, and
// compares the two. Only the fetched packages are shared.
func checkReproducible(ctx context.Context, c config) error {
	if err := build(ctx, c); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(c.cache, "check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	second := c
	second.refresh = false
	second.out = filepath.Join(dir, "image")
	second.cache = filepath.Join(dir, "cache")
	if err := os.Mkdir(second.cache, 0o755); err != nil {
		return err
	}
	packages, err := filepath.Abs(filepath.Join(c.cache, "apt"))
	if err != nil {
		return err
	}
	if err := os.Symlink(packages, filepath.Join(second.cache, "apt")); err != nil {
		return err
	}
	goCache, err := filepath.Abs(filepath.Join(dir, "go-build"))
	if err != nil {
		return err
	}
	second.env = []string{"GOCACHE=" + goCache}
	c.log("building a second time")
	if err := build(ctx, second); err != nil {
		return fmt.Errorf("the second build: %w", err)
	}
	if err := compareDirs(c.out, second.out); err != nil {
		return err
	}
	c.log("the second build is the same, byte for byte")
	return nil
}

// compareDirs returns an error that names every file in which two directories differ.
func compareDirs(a, b string) error {
	inA, err := readDir(a)
	if err != nil {
		return err
	}
	inB, err := readDir(b)
	if err != nil {
		return err
	}
	var errs []error
	all := maps.Clone(inA)
	maps.Copy(all, inB)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x, okA := inA[name]
		y, okB := inB[name]
		switch {
		case !okA || !okB:
			errs = append(errs, fmt.Errorf("only one build has %s", name))
		case !bytes.Equal(x, y):
			errs = append(errs, fmt.Errorf("the builds differ in %s", name))
		}
	}
	return errors.Join(errs...)
}

func readDir(dir string) (map[string][]byte, error) {
	content := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content[name], err = os.ReadFile(path)
		return err
	})
	return content, err
}
