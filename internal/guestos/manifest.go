// SPDX-License-Identifier: Apache-2.0

package guestos

// ManifestVersion is the value of Manifest.Version that this code reads and writes.
const ManifestVersion = 1

// Manifest says what an image is made of. It is written by the image builder as manifest.json. It is information for
// people and tools; what a guest accepts is decided by the launch measurement and the root hash alone.
type Manifest struct {
	Version int `json:"version"`
	// BuiltAt is the time of the newest input in seconds since 1970, not of the build: two builds from the same
	// inputs agree. The guest takes it as the earliest possible time of day.
	BuiltAt   int64      `json:"built_at"`
	Kernel    string     `json:"kernel"` // release, as uname -r
	Verity    Verity     `json:"verity"`
	Artifacts []Artifact `json:"artifacts"` // sorted by name
	Modules   []string   `json:"modules"`   // kernel modules that the guest loads
	Packages  []Package  `json:"packages"`  // Debian packages that files were taken from, sorted by name
	Programs  []Program  `json:"programs"`  // Go programs, sorted by path
}

// Verity holds what the dm-verity tree of the root image was made with (SHA-256, format 1, blocks of 4096 bytes, the
// tree directly after the data).
type Verity struct {
	RootHash   string `json:"root_hash"` // hexadecimal
	Salt       string `json:"salt"`      // hexadecimal
	DataBlocks uint64 `json:"data_blocks"`
}

// Artifact is one file of the image directory.
type Artifact struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// Package is a Debian package and the files that were taken from it.
type Package struct {
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	Architecture string   `json:"architecture"`
	Source       string   `json:"source"`           // source package and its version
	Suite        string   `json:"suite"`            // of the archive, or "host" for a static library of the build machine
	SHA256       string   `json:"sha256,omitempty"` // of the .deb, hexadecimal
	Files        []string `json:"files"`            // paths in the package, sorted
}

// Program is a Go program in the image and the modules linked into it.
type Program struct {
	Path    string     `json:"path"` // in the guest
	Main    string     `json:"main"` // import path
	Go      string     `json:"go"`   // toolchain
	SHA256  string     `json:"sha256"`
	Modules []GoModule `json:"modules"`
}

// GoModule is a module linked into a program.
type GoModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"` // go.sum's hash, checked by the go command
}
