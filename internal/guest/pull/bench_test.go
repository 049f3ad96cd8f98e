// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/internal/guest/unpack"
	"github.com/nacre-project/nacre/internal/guest/unpack/unpacktest"
)

// program is 64 MiB of files of 32 KiB that compress about as well as programs do.
func program(b *testing.B) []byte {
	b.Helper()
	noise := rand.NewChaCha8([32]byte{1})
	var files []string
	for i := range 2048 {
		half := make([]byte, 16<<10)
		_, _ = noise.Read(half)
		files = append(files, fmt.Sprintf("usr/lib/d%d/f%d", i/50, i), string(half)+strings.Repeat("\x00", 16<<10))
	}
	return archive(b, files...)
}

// BenchmarkPull pulls a layer from a registry on loopback into a directory on a tmpfs, and compares with what cannot be avoided: both
// hashes and the decompression.
func BenchmarkPull(b *testing.B) {
	layer := program(b)
	for _, c := range []compression{uncompressed, gzipped, zstandard} {
		name := []string{"tar", "gzip", "zstd"}[c]
		blob := compressed(b, c, layer)
		b.Run(name, func(b *testing.B) {
			sandbox := unpacktest.Sandbox(b, unpack.Limits{})
			reg := newRegistry(b, true)
			d, _ := reg.push(b, testImage{layers: []testLayer{{archive: layer, compression: c, blob: blob}}})
			b.SetBytes(int64(len(layer)))
			for b.Loop() {
				dir, err := os.MkdirTemp("/dev/shm", "nacre-bench-")
				if err != nil {
					b.Skip(err)
				}
				p := newPuller(b, reg, func(cfg *Config) { cfg.WorkDir, cfg.Unpack = dir, sandbox })
				if _, err := p.Pull(b.Context(), reg.ref(d)); err != nil {
					b.Fatal(err)
				}
				os.RemoveAll(dir)
			}
		})
		b.Run(name+" floor", func(b *testing.B) {
			b.SetBytes(int64(len(layer)))
			for b.Loop() {
				outer, inner := sha256.New(), sha256.New()
				r, err := c.open(io.TeeReader(bytes.NewReader(blob), outer))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(inner, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
