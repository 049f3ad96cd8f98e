// SPDX-License-Identifier: Apache-2.0

// Package disk is a disk that loses power, for tests: what was written to it is gone, in part or whole, unless it was
// flushed. QEMU reaches it by the NBD protocol, on a Unix socket.
//
// Killing an emulator loses nothing of what it wrote to a file, since the kernel below it lives on. So the disk is here:
// in memory, behind a write cache that a loss of power empties at random, as a real disk may.
//
// It is for tests of programs that must survive that. It keeps nothing, and it trusts the one client that it has.
package disk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
)

// sector is the smallest unit that a disk writes whole, in bytes; page is that of most disks of today.
const (
	sector = 512
	page   = 4096
)

// Disk is a disk with a write cache. It is safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	stable  []byte // what a loss of power leaves
	current []byte // what reads see
	cache   []write
	lies    bool
	fuse    int           // writes and flushes until the power fails; 0: it does not
	failed  chan struct{} // closed when it has
}

// errNoPower says that the power has failed.
var errNoPower = errors.New("the disk has no power")

// write is one that is not stable yet.
type write struct {
	offset int
	data   []byte
}

// New makes a disk that holds an image, which it takes over. A disk that lies says that it has flushed, and has not.
func New(image []byte, lies bool) *Disk {
	return &Disk{stable: image, current: append([]byte(nil), image...), lies: lies}
}

// Size is the disk's size, in bytes.
func (d *Disk) Size() int64 { return int64(len(d.current)) }

// Image is a copy of what a loss of power would leave at least.
func (d *Disk) Image() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.stable...)
}

func (d *Disk) within(n int, offset int64) error {
	if offset < 0 || offset > d.Size() || int64(n) > d.Size()-offset {
		return fmt.Errorf("%d bytes at %d are beyond the end of the disk: %w", n, offset, io.ErrUnexpectedEOF)
	}
	return nil
}

// FailAfter lets the power fail at the n-th write or flush from now on. From then on the disk answers nothing, until
// PowerLoss says what is left. The channel is closed when the power has failed.
func (d *Disk) FailAfter(n int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fuse, d.failed = n, make(chan struct{})
	return d.failed
}

// fails says whether the power has failed, counting one more write or flush.
func (d *Disk) fails() bool {
	if d.fuse == 0 {
		return d.dark()
	}
	if d.fuse--; d.fuse == 0 {
		close(d.failed)
	}
	return d.fuse == 0
}

// dark says whether the power has failed.
func (d *Disk) dark() bool {
	select {
	case <-d.failed:
		return true
	default:
		return false
	}
}

// ReadAt reads what was written last.
func (d *Disk) ReadAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dark() {
		return 0, errNoPower
	}
	if err := d.within(len(p), offset); err != nil {
		return 0, err
	}
	return copy(p, d.current[offset:]), nil
}

// WriteAt writes into the cache. The write at which the power fails is in it still.
func (d *Disk) WriteAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dark() {
		return 0, errNoPower
	}
	if err := d.within(len(p), offset); err != nil {
		return 0, err
	}
	copy(d.current[offset:], p)
	d.cache = append(d.cache, write{int(offset), append([]byte(nil), p...)})
	if d.fails() {
		return 0, errNoPower
	}
	return len(p), nil
}

// Flush makes stable what was written.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails() {
		return errNoPower
	}
	if d.lies {
		return nil
	}
	for _, w := range d.cache {
		copy(d.stable[w.offset:], w.data)
	}
	d.cache = nil
	return nil
}

// Loss is what a loss of power did.
type Loss struct {
	Cached  int // writes that had not been flushed
	Dropped int // of them, those of which nothing is left
	Torn    int // of them, those of which a part is left
}

func (l Loss) String() string {
	return fmt.Sprintf("%d writes were not flushed, %d are lost and %d torn", l.Cached, l.Dropped, l.Torn)
}

// PowerLoss takes the power away and brings it back. Of the writes in the cache some are on the disk, in any
// combination, so that a later one may be there and an earlier one not; and of some, a part.
func (d *Disk) PowerLoss(random *rand.Rand) Loss {
	d.mu.Lock()
	defer d.mu.Unlock()
	// How much is lost differs from time to time, so that all is, and that little is.
	keep := []float64{0, 0.2, 0.5, 0.9}[random.IntN(4)]
	unit := []int{sector, page}[random.IntN(2)]
	loss := Loss{Cached: len(d.cache)}
	for _, w := range d.cache {
		switch {
		case random.Float64() >= keep:
			loss.Dropped++
		case len(w.data) > unit && random.IntN(4) == 0:
			loss.Torn++
			d.tear(w, unit, random)
		default:
			copy(d.stable[w.offset:], w.data)
		}
	}
	d.cache, d.fuse, d.failed = nil, 0, nil
	copy(d.current, d.stable)
	return loss
}

// tear writes some units of a write. They are the disk's, so they begin where the disk's do.
func (d *Disk) tear(w write, unit int, random *rand.Rand) {
	for from := 0; from < len(w.data); {
		to := min(len(w.data), from+unit-(w.offset+from)%unit)
		if random.IntN(2) == 0 {
			copy(d.stable[w.offset+from:], w.data[from:to])
		}
		from = to
	}
}
