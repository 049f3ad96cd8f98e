// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Progress tells about work that takes more than a second, each second or so.
type Progress struct {
	Out io.Writer
	Now func() time.Time

	mu sync.Mutex // layers are written side by side
}

// reader counts what is read of a layer.
func (p *Progress) reader(r io.Reader, doing string, d digest.Digest, size int64) io.Reader {
	if p == nil {
		return r
	}
	return &counter{r: r, progress: p, doing: doing, digest: d, size: size, next: p.Now().Add(time.Second)}
}

type counter struct {
	r        io.Reader
	progress *Progress
	doing    string
	digest   digest.Digest
	n, size  int64
	next     time.Time
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	if now := c.progress.Now(); now.After(c.next) {
		c.next = now.Add(time.Second)
		c.progress.mu.Lock()
		fmt.Fprintf(c.progress.Out, "%s layer %.19s…: %d of %d MiB\n", c.doing, c.digest, c.n>>20, c.size>>20)
		c.progress.mu.Unlock()
	}
	return n, err
}
