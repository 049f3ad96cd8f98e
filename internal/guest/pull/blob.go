// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// stallTimeout is how long a transfer may deliver nothing before it counts as broken.
	stallTimeout = time.Minute
	// progress is how much a connection must have delivered for the count of failures to start anew.
	progress = 1 << 20
)

// blob reads a blob of known length, and when the connection breaks goes on where it stopped with a new one: what
// reads from it sees one stream. It does not verify: whoever hashes the stream notices whatever a second answer, or a
// third, may have mixed in.
type blob struct {
	ctx        context.Context //nolint:containedctx // a reader's life is one call of pullLayer
	session    *session
	descriptor ocispec.Descriptor

	offset   int64
	body     io.ReadCloser
	cancel   context.CancelFunc
	stall    *time.Timer
	failures int
	since    int64 // offset at the latest failure
	err      error // why reading stopped for good, nil at the end
}

func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	for b.offset < b.descriptor.Size {
		n, err := b.read(p[:min(int64(len(p)), b.descriptor.Size-b.offset)])
		if n > 0 {
			b.offset += int64(n)
			return n, nil
		}
		if err == nil {
			continue
		}
		b.close()
		if b.err = b.again(err); b.err != nil {
			return 0, b.err
		}
	}
	return 0, io.EOF
}

// read reads from the connection, which it opens if there is none.
func (b *blob) read(p []byte) (int, error) {
	if b.body == nil {
		if err := b.open(); err != nil {
			return 0, err
		}
	}
	b.stall.Reset(stallTimeout)
	n, err := b.body.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the blob's length is known, and not reached
	}
	if err != nil {
		err = unreachable(err, "%s broke off at byte %d of %d of %s",
			b.session.at.registry, b.offset, b.descriptor.Size, b.descriptor.Digest)
	}
	return n, err
}

func (b *blob) open() error {
	ctx, cancel := context.WithCancel(b.ctx)
	response, err := b.session.get(ctx, "blobs", b.descriptor.Digest.String(), "", b.offset) //nolint:bodyclose // close does it
	if err != nil {
		cancel()
		return err
	}
	b.body, b.cancel, b.stall = response.Body, cancel, time.AfterFunc(stallTimeout, cancel)
	if b.offset > 0 && !resumes(response, b.offset) {
		// The server does not know ranges: skip what is there already.
		if _, err := io.CopyN(io.Discard, b.body, b.offset); err != nil {
			return unreachable(err, "%s", b.session.at.registry)
		}
	}
	return nil
}

func resumes(r *http.Response, offset int64) bool {
	return r.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(r.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset))
}

// again waits before the next attempt, or returns why there is none.
func (b *blob) again(err error) error {
	t, passing := err.(*temporary) //nolint:errorlint // what follows may wrap one of an inner call, which gave up
	if !passing {
		return err
	}
	if b.offset-b.since >= progress {
		b.failures = 0
	}
	b.since = b.offset
	if b.failures++; b.failures >= b.session.retry.Attempts {
		return t.error
	}
	if err := b.session.retry.wait(b.ctx, b.failures, t.after); err != nil {
		return failed(CodeUnreachable, err, "%s", t.error)
	}
	return nil
}

// close ends the connection, if there is one.
func (b *blob) close() {
	if b.body != nil {
		b.stall.Stop()
		b.cancel()
		b.body.Close()
		b.body = nil
	}
}
