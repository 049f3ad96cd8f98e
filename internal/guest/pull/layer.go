// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/internal/guest/unpack"
)

// store is the directory of unpacked layers. It believes only in layers that it saw being verified.
type store struct {
	dir string

	mu     sync.Mutex
	layers map[string]*slot // by name
}

// slot is a layer's place: whoever has it may fill it.
type slot struct {
	turn chan struct{} // holds one token
	full bool          // guarded by the turn
}

// once returns the layer's directory, and calls fill for it if there is none yet. Of several callers for one layer one
// fills it; when he fails, the next one tries, in his own name and under his own deadline.
func (s *store) once(ctx context.Context, name string, fill func(path string) error) (string, error) {
	s.mu.Lock()
	place := s.layers[name]
	if place == nil {
		place = &slot{turn: make(chan struct{}, 1)}
		s.layers[name] = place
	}
	s.mu.Unlock()
	select {
	case place.turn <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-place.turn }()
	path := filepath.Join(s.dir, name)
	if place.full {
		return path, nil
	}
	if err := fill(path); err != nil {
		return "", err
	}
	place.full = true
	return path, nil
}

// fill calls fill with an empty directory, which becomes path when that succeeds, and is removed when it fails.
func (s *store) fill(path string, fill func(dir string) error) error {
	draft, err := os.MkdirTemp(s.dir, ".draft-")
	if err != nil {
		return failed(CodeLayerRefused, err, "making room for a layer")
	}
	err = os.Chmod(draft, 0o755) // an image's root directory, unless the layer says otherwise
	if err == nil {
		err = fill(draft)
	}
	if err == nil {
		err = errors.Join(os.RemoveAll(path), os.Rename(draft, path))
	}
	if err != nil {
		if rmErr := os.RemoveAll(draft); rmErr != nil {
			err = fmt.Errorf("%w (and what there is of the layer stays in %s: %w)", err, draft, rmErr)
		}
	}
	return err
}

// layer returns the directory of one layer, fetched and unpacked now or earlier.
func (p *Puller) layer(ctx context.Context, e *errand, l layer) (string, error) {
	name, err := l.name()
	if err != nil {
		return "", err
	}
	return p.store.once(ctx, name, func(path string) error {
		return e.try(ctx, func(s *session) error {
			return p.store.fill(path, func(dir string) error { return p.pullLayer(ctx, e, s, l, dir) })
		})
	})
}

// pullLayer streams a layer into dir: the registry's bytes through the digest that the manifest names, through the
// decryption where there is one, through the decompressor, through the digest that the configuration names, to the
// unpacker. Both digests, and the decryption's MAC, count all there is, so they are compared at the end; until then
// only the unpacker, which expects the worst, has seen the bytes.
func (p *Puller) pullLayer(ctx context.Context, e *errand, s *session, l layer, dir string) (err error) {
	body := &blob{ctx: ctx, session: s, descriptor: l.blob}
	defer body.close()
	outer := l.blob.Digest.Algorithm().Hash()
	compressed := &hashing{Reader: body, hash: outer}
	plain, err := e.decrypt(ctx, l, compressed)
	if err != nil {
		return err
	}
	decompressed, err := l.compression.open(plain)
	if err != nil {
		return layerError(compressed, plain, body, l, err)
	}
	defer decompressed.Close()
	inner := l.diffID.Algorithm().Hash()
	archive := &bounded{
		Reader: &hashing{Reader: decompressed, hash: inner}, left: p.limits.LayerBytes,
		total: &e.unpacked, limit: p.limits.UnpackedBytes,
	}
	defer func() {
		if err != nil { // what is thrown away does not count
			e.unpacked.Add(archive.left - p.limits.LayerBytes)
		}
	}()
	stats, err := p.unpack.Unpack(ctx, dir, archive)
	if err != nil {
		return layerError(compressed, plain, body, l, err)
	}
	// The unpacker has read all that the decompressor gave; now the compressed stream must be at its end too.
	if _, err := io.ReadFull(plain, make([]byte, 1)); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("there are bytes after the end of the compressed stream")
		}
		return layerError(compressed, plain, body, l, err)
	}
	if err := compressed.is(l.blob.Digest); err != nil {
		return err
	}
	if got := digest.NewDigest(l.diffID.Algorithm(), inner); got != l.diffID {
		return refuse(CodeDigestMismatch, "layer %s unpacks to %s, and the image's configuration says %s: "+
			"whoever built the image made a mistake, or more than that", l.blob.Digest, got, l.diffID)
	}
	p.log.DebugContext(ctx, "layer unpacked", "diff_id", l.diffID, "compressed_bytes", l.blob.Size, "entries", stats.Entries,
		"bytes", stats.Bytes)
	if stats.DevicesSkipped > 0 {
		p.log.WarnContext(ctx, "the layer's device nodes are left out", "diff_id", l.diffID, "count", stats.DevicesSkipped)
	}
	return nil
}

// layerError says whose fault it was that a layer's stream could not be unpacked: the network's, the registry's, the
// guest's, or the image's.
func layerError(compressed *hashing, plain io.Reader, body *blob, l layer, err error) error {
	switch {
	case body.err != nil:
		return body.err
	case CodeOf(err) != "":
		return err
	case unpack.CodeOf(err) == unpack.CodeNoSpace:
		return failed(CodeLayerRefused, err, "layer %s does not fit into the guest: give the pod more memory", l.blob.Digest)
	}
	_, readErr := io.Copy(io.Discard, plain)
	if readErr == nil || imagecrypt.CodeOf(readErr) != "" { // at its end
		if err := compressed.is(l.blob.Digest); err != nil { // no wonder then
			return err
		}
	}
	for _, err := range []error{err, readErr} {
		if imagecrypt.CodeOf(err) != "" { // what does not decrypt does not decompress either
			return failed(CodeNotDecrypted, err, "layer %s", l.blob.Digest)
		}
	}
	return failed(CodeLayerRefused, err, "layer %s (%s)", l.blob.Digest, l.blob.MediaType)
}

// hashing hashes what is read through it.
type hashing struct {
	io.Reader
	hash hash.Hash
}

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	h.hash.Write(p[:n])
	return n, err
}

// is refuses what was read to the end and is not what the digest says.
func (h *hashing) is(want digest.Digest) error {
	if got := digest.NewDigest(want.Algorithm(), h.hash); got != want {
		return refuse(CodeDigestMismatch, "%s came for layer %s: the registry, or somebody on the way, changed it", got, want)
	}
	return nil
}

// bounded refuses a stream that goes on after a number of bytes, or that makes several together too long.
type bounded struct {
	io.Reader
	left  int64
	total *atomic.Int64 // of all streams
	limit int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, refuse(CodeTooLarge, "a layer is larger than the limit, decompressed")
	}
	if b.total.Add(int64(n)) > b.limit {
		return 0, refuse(CodeTooLarge, "the image's layers are together larger than %d bytes, decompressed", b.limit)
	}
	return n, err
}
