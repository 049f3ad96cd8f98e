// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math/bits"
	"time"
)

// precision is how many bits of a duration a histogram keeps: what it answers is at most 1/128 too long.
const precision = 7

// Histogram counts durations in buckets whose width grows with the duration, so that a microsecond and a minute are
// told equally well. The zero value is empty.
type Histogram struct {
	counts []uint64
	count  uint64
	sum    time.Duration
	max    time.Duration
}

// bucket is the number of the bucket of a duration: durations below 2^(precision+1) ns have one each, then each
// doubling has 2^precision.
func bucket(d time.Duration) int {
	n := uint64(max(d, 0))
	shift := max(bits.Len64(n)-precision-1, 0)
	return shift<<precision + int(n>>shift)
}

// longest is the longest duration of a bucket.
func longest(bucket int) time.Duration {
	shift := max(bucket>>precision-1, 0)
	return time.Duration((uint64(bucket-shift<<precision)+1)<<shift - 1)
}

// Record counts a duration.
func (h *Histogram) Record(d time.Duration) {
	b := bucket(d)
	if b >= len(h.counts) {
		h.counts = append(h.counts, make([]uint64, b+1-len(h.counts))...)
	}
	h.counts[b]++
	h.count++
	h.sum += d
	h.max = max(h.max, d)
}

// Count is how many durations were counted.
func (h *Histogram) Count() uint64 { return h.count }

// Max is the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean is the mean duration, exactly; 0 of none.
func (h *Histogram) Mean() time.Duration {
	if h.count == 0 {
		return 0
	}
	return h.sum / time.Duration(h.count)
}

// Quantile is the duration that a share q, from 0 to 1, of the durations do not exceed; 0 of none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(uint64(q*float64(h.count)+0.5), 1)
	var seen uint64
	for b, n := range h.counts {
		if seen += n; seen >= rank {
			return min(longest(b), h.max)
		}
	}
	return h.max
}
