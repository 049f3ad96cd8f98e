// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"strings"
)

// reach says which lines of which files attacks have come by. Files have the paths of their packages.
type reach map[string][]lines

// lines is a piece of a file, first and last line.
type lines struct{ first, last int }

// readReach reads a profile of the go command: "file:line.column,line.column statements count" on each line but the first.
func readReach(profile string) (reach, error) {
	f, err := os.Open(profile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	reached := reach{}
	scan := bufio.NewScanner(f)
	scan.Scan() // the mode
	for scan.Scan() {
		file, rest, _ := strings.Cut(scan.Text(), ".go:")
		var block lines
		var column, statements, count int
		_, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &block.first, &column, &block.last, &column, &statements, &count)
		if err != nil {
			return nil, fmt.Errorf("reading what attacks come by: %q: %w", scan.Text(), err)
		}
		if count > 0 {
			reached[file+".go"] = append(reached[file+".go"], block)
		}
	}
	return reached, scan.Err()
}

// comesBy says whether attacks have come by any of the lines. There is no line 0: what belongs to no function is everybody's.
func (r reach) comesBy(file string, first, last int) bool {
	for _, block := range r[file] {
		if block.first >= first && block.last <= last {
			return true
		}
	}
	return first == 0
}

// enclosing is the function at an offset of a file, from its first line to its last, and 0 where there is none.
func enclosing(file string, text []byte, offset int) (first, last int) {
	if path.Ext(file) != ".go" {
		return 0, 0
	}
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, text, parser.SkipObjectResolution)
	if err != nil {
		return 0, 0
	}
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if ok && files.Position(f.Pos()).Offset <= offset && offset < files.Position(f.End()).Offset {
			return files.Position(f.Pos()).Line, files.Position(f.End()).Line
		}
	}
	return 0, 0
}
