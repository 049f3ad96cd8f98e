// SPDX-License-Identifier: Apache-2.0

// Package pictures holds the drawings of the documentation: a Graphviz source and the SVG made of it, side by side. `make generate`
// (with graphviz installed) draws them anew; a test demands that each SVG was made of the source beside it.
package pictures

//go:generate go run ./draw
