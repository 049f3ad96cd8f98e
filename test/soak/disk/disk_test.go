// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

const size = 1 << 20

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func put(t *testing.T, d *Disk, data []byte, at int64) {
	t.Helper()
	if _, err := d.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, d *Disk) {
	t.Helper()
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, d *Disk, n int, at int64) []byte {
	t.Helper()
	data := make([]byte, n)
	if _, err := d.ReadAt(data, at); err != nil {
		t.Fatal(err)
	}
	return data
}

// What was flushed is there after any loss of power; what was not may be there, or gone, or torn between sectors.
func TestPowerLoss(t *testing.T) {
	var kept, gone, torn, reordered bool
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		d := New(make([]byte, size), false)
		put(t, d, fill(1, 64<<10), 0)
		flush(t, d)
		put(t, d, fill(2, 16<<10), 512)
		put(t, d, fill(3, sector), 512<<10)
		if got := get(t, d, 16<<10, 512); !bytes.Equal(got, fill(2, 16<<10)) {
			t.Fatal("reads do not see what was written last")
		}
		loss := d.PowerLoss(random)
		if loss.Cached != 2 || loss.Dropped+loss.Torn > 2 {
			t.Fatalf("%+v", loss)
		}
		first, second := get(t, d, 16<<10, 512), get(t, d, sector, 512<<10)
		switch n := bytes.Count(first, []byte{2}); {
		case n == len(first):
			kept = true
		case n == 0:
			gone = true
			reordered = reordered || second[0] == 3
		default:
			torn = true
			if n%sector != 0 && loss.Torn == 1 {
				t.Errorf("%d bytes are left: a sector was torn", n)
			}
		}
		if bytes.Count(first, []byte{1})+bytes.Count(first, []byte{2}) != len(first) || second[0] != 0 && second[0] != 3 {
			t.Error("there is what nobody wrote")
		}
		if !bytes.Equal(get(t, d, sector, 0), fill(1, sector)) || !bytes.Equal(get(t, d, 1024, 40<<10), fill(1, 1024)) {
			t.Error("what was flushed is gone")
		}
		if d.PowerLoss(random).Cached != 0 {
			t.Error("the cache outlives the power")
		}
	}
	if !kept || !gone || !torn || !reordered {
		t.Errorf("in 200 losses: kept %t, gone %t, torn %t, reordered %t", kept, gone, torn, reordered)
	}
}

func TestDiskThatLies(t *testing.T) {
	d := New(make([]byte, size), true)
	put(t, d, fill(1, page), 0)
	flush(t, d)
	if d.Image()[0] != 0 || get(t, d, 1, 0)[0] != 1 {
		t.Error("a disk that lies has flushed, or reads show that it has not")
	}
}

// The power fails at the write or flush that was chosen: that write is in the cache, that flush is not done, and
// nothing is answered any more.
func TestFailAfter(t *testing.T) {
	for n, cached := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2} {
		d := New(make([]byte, size), false)
		failed := d.FailAfter(n)
		_, err := d.WriteAt(fill(1, sector), 0)
		for _, act := range []func() error{
			d.Flush,
			func() error { _, err := d.WriteAt(fill(2, sector), 0); return err },
			func() error { _, err := d.WriteAt(fill(3, sector), 0); return err },
		} {
			if err == nil {
				err = act()
			}
		}
		if err == nil {
			t.Fatalf("the power did not fail at %d", n)
		}
		<-failed
		if _, err := d.ReadAt(make([]byte, 1), 0); err == nil {
			t.Error("it reads without power")
		}
		if _, err := d.WriteAt(make([]byte, 1), 0); err == nil || d.Flush() == nil {
			t.Error("it writes without power")
		}
		if loss := d.PowerLoss(rand.New(rand.NewPCG(1, 1))); loss.Cached != cached {
			t.Errorf("failed at %d: %+v", n, loss)
		}
		put(t, d, fill(4, sector), 0)
		flush(t, d)
	}
}

func TestBeyondTheEnd(t *testing.T) {
	d := New(make([]byte, size), false)
	for _, at := range []int64{-1, size - 1, size, 1 << 62} {
		if _, err := d.WriteAt(make([]byte, 2), at); err == nil {
			t.Errorf("wrote at %d", at)
		}
		if _, err := d.ReadAt(make([]byte, 2), at); err == nil {
			t.Errorf("read at %d", at)
		}
	}
}

// message is numbers and bytes as the protocol sends them.
func message(t *testing.T, parts ...any) []byte {
	t.Helper()
	var b []byte
	for _, p := range parts {
		var err error
		if b, err = binary.Append(b, binary.BigEndian, p); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestSession(t *testing.T) {
	d := New(make([]byte, size), false)
	client, server := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(server); server.Close() }()
	expect := func(want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x, %v; want %x", got, err, want)
		}
	}
	send := func(parts ...any) {
		t.Helper()
		if _, err := client.Write(message(t, parts...)); err != nil {
			t.Fatal(err)
		}
	}
	expect([]byte("NBDMAGICIHAVEOPT\x00\x03"))
	send(uint32(3))
	send(uint64(magicOption), uint32(8), uint32(0)) // structured replies
	expect(message(t, uint64(magicReply), uint32(8), uint32(replyUnsupported), uint32(0)))
	send(uint64(magicOption), uint32(optionGo), uint32(6), uint32(0), uint16(0))
	expect(message(t, uint64(magicReply), uint32(optionGo), uint32(replyInfo), uint32(12), uint16(0), uint64(size), uint16(13)))
	expect(message(t, uint64(magicReply), uint32(optionGo), uint32(replyAck), uint32(0)))
	request := func(flags, command uint16, offset uint64, length uint32, data []byte) {
		t.Helper()
		send(uint32(magicRequest), flags, command, uint64(77), offset, length, data)
	}
	answer := func(code uint32, data []byte) {
		t.Helper()
		expect(message(t, uint32(magicSimple), code, uint64(77), data))
	}
	request(0, commandWrite, 4096, 4, []byte("data"))
	answer(0, nil)
	request(0, commandRead, 4095, 6, nil)
	answer(0, []byte("\x00data\x00"))
	if bytes.Contains(d.Image(), []byte("data")) {
		t.Error("it is stable before it was flushed")
	}
	request(0, commandFlush, 0, 0, nil)
	answer(0, nil)
	request(commandFUA, commandWrite, 0, 3, []byte("fua"))
	answer(0, nil)
	if image := d.Image(); !bytes.Contains(image, []byte("data")) || !bytes.HasPrefix(image, []byte("fua")) {
		t.Error("it is not stable after it was flushed")
	}
	request(0, commandRead, size, 1, nil)
	answer(errorInvalid, nil)
	request(0, 9, 0, 0, nil)
	answer(errorInvalid, nil)
	request(0, commandDisconnect, 0, 0, nil)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func FuzzServe(f *testing.F) {
	start := func(parts ...any) []byte {
		b := []byte{0, 0, 0, 3}
		for _, p := range append([]any{uint64(magicOption), uint32(optionGo), uint32(0)}, parts...) {
			b, _ = binary.Append(b, binary.BigEndian, p)
		}
		return b
	}
	f.Add(start(uint32(magicRequest), uint16(0), uint16(commandRead), uint64(1), uint64(0), uint32(512)))
	f.Add(start(uint32(magicRequest), uint16(0), uint16(commandWrite), uint64(1), uint64(0), uint32(1<<31)))
	f.Fuzz(func(t *testing.T, said []byte) {
		d := New(make([]byte, page), false)
		_ = d.Serve(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(said), io.Discard})
	})
}
