// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// imageFile is in the measured root image.
const imageFile = "/etc/nacre/image.json"

// Image is what the root image says about itself.
type Image struct {
	BuiltAt int64 `json:"built_at"` // seconds since 1970: the newest file of the image
	Version int   `json:"version"`
}

func readImage(path string) (Image, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Image{}, fmt.Errorf("reading what the root image says about itself: %w", err)
	}
	var img Image
	if err := json.Unmarshal(text, &img); err != nil {
		return Image{}, fmt.Errorf("parsing %s: %w", path, err)
	}
	if img.BuiltAt <= 0 {
		return Image{}, fmt.Errorf("parsing %s: built_at %d is not a time", path, img.BuiltAt)
	}
	return img, nil
}

// Clock keeps the guest's clock above what is known to have passed. The host sets the clock that the machine starts
// with, so a time is only believed when it is the image's own age or comes from a verified token. Nothing in the guest
// that decides about trust may need more than this; the broker's certificate is pinned for that reason.
type Clock struct {
	mu    sync.Mutex
	floor time.Time
	now   func() time.Time
	set   func(time.Time) error
}

func newClock(img Image) *Clock {
	return &Clock{floor: time.Unix(img.BuiltAt, 0), now: time.Now, set: setTimeOfDay}
}

// raise sets the clock to the floor when it stands before it.
func (c *Clock) raise(log *slog.Logger) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if !now.Before(c.floor) {
		return nil // as late as the host likes: harmless, and not believed
	}
	log.Warn("the clock stood before the image was built and is set to that time", "clock", now, "set", c.floor)
	return c.set(c.floor)
}

// tokenSlack is how far the clock may be from a token's time before it is set: the token was on its way for a while,
// and setting the clock for less only makes it jump.
const tokenSlack = 2 * time.Second

// SetFromToken sets the clock by the time of issue of a token whose signature was verified, and makes that time the
// floor: a token that is older than one seen before does not turn the clock back.
func (c *Clock) SetFromToken(issued time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if issued.Before(c.floor) {
		return fmt.Errorf("the token was issued at %v, before %v, which is known to have passed: the clock stays",
			issued.UTC(), c.floor.UTC())
	}
	c.floor = issued
	if d := c.now().Sub(issued).Abs(); d <= tokenSlack {
		return nil
	}
	if err := c.set(issued); err != nil {
		return fmt.Errorf("setting the clock by the token's time: %w", err)
	}
	return nil
}

func setTimeOfDay(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}
