// SPDX-License-Identifier: Apache-2.0

package initdata_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nacre-project/nacre/initdata"
)

func compress(t testing.TB, raw []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// device wraps compressed text as the header of a device says it.
func device(length uint64, compressed []byte, size int) []byte {
	out := append([]byte("initdata"), binary.LittleEndian.AppendUint64(nil, length)...)
	out = append(out, compressed...)
	return append(out, make([]byte, max(0, size-len(out)))...)
}

func TestRealDevice(t *testing.T) {
	dir := os.Getenv("NACRE_VECTORS")
	if dir == "" {
		t.Skip("NACRE_VECTORS is not set: it names a directory with a real device's content")
	}
	image, err := os.ReadFile(filepath.Join(dir, "initdata", "initdata.img"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := initdata.DecodeDevice(bytes.NewReader(image))
	if err != nil || string(raw) != "some content" {
		t.Errorf("%q, %v", raw, err)
	}
	ours, err := initdata.EncodeDevice(raw)
	if err != nil || len(ours) != len(image) || !bytes.Equal(ours[:8], image[:8]) {
		t.Errorf("we write %d bytes, the real one has %d: %v", len(ours), len(image), err)
	}
}

func TestCarriersRoundTrip(t *testing.T) {
	for name, raw := range map[string][]byte{
		"nothing":        {},
		"short":          []byte("some content"),
		"text":           []byte(valid),
		"zeros":          make([]byte, initdata.MaxSize),
		"incompressible": incompressible(initdata.MaxSize),
	} {
		annotation, err := initdata.EncodeAnnotation(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back, err := initdata.DecodeAnnotation(annotation); err != nil || !bytes.Equal(back, raw) {
			t.Errorf("%s: the annotation has %d bytes, %v", name, len(back), err)
		}
		image, err := initdata.EncodeDevice(raw)
		if err != nil || len(image)%512 != 0 {
			t.Fatalf("%s: %d bytes, %v", name, len(image), err)
		}
		if back, err := initdata.DecodeDevice(iotest.OneByteReader(bytes.NewReader(image))); err != nil ||
			!bytes.Equal(back, raw) {
			t.Errorf("%s: the device has %d bytes, %v", name, len(back), err)
		}
		again, err := initdata.EncodeDevice(raw)
		if err != nil || !bytes.Equal(again, image) {
			t.Errorf("%s: written differently the second time, %v", name, err)
		}
	}
	for name, encode := range map[string]func([]byte) error{
		"annotation": func(raw []byte) error { _, err := initdata.EncodeAnnotation(raw); return err },
		"device":     func(raw []byte) error { _, err := initdata.EncodeDevice(raw); return err },
	} {
		if err := encode(make([]byte, initdata.MaxSize+1)); err == nil {
			t.Errorf("%s: more than is allowed", name)
		}
	}
}

// incompressible makes bytes that gzip makes longer: a linear congruential generator's high bytes.
func incompressible(n int) []byte {
	out, state := make([]byte, n), uint64(1)
	for i := range out {
		state = state*6364136223846793005 + 1442695040888963407
		out[i] = byte(state >> 56)
	}
	return out
}

// A device of any size may follow the sectors that the header speaks of; they are not read.
func TestDeviceIsReadNoFurther(t *testing.T) {
	image, err := initdata.EncodeDevice([]byte("some content"))
	if err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewReader(image), iotest.ErrReader(errors.New("read beyond")))
	if raw, err := initdata.DecodeDevice(broken); err != nil || string(raw) != "some content" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestDecodeDeviceRefuses(t *testing.T) {
	good := compress(t, []byte("some content"))
	n := uint64(len(good))
	for name, image := range map[string][]byte{
		"cut in the header":     device(n, good, 512)[:12],
		"cut in the text":       device(n, good, 512)[:30],
		"cut in the padding":    device(n, good, 512)[:511],
		"length zero":           device(0, good, 512),
		"length too short":      device(n-1, good, 512),
		"length of everything":  device(1<<64-1, good, 512),
		"length that wraps":     device(1<<64-16, good, 512),
		"length beyond the end": device(4096, good, 512),
		"more than is allowed":  device(2*initdata.MaxSize, good, 2*initdata.MaxSize+512),
		"not compressed":        device(12, []byte("some content"), 512),
		"checksum":              device(n, append(bytes.Clone(good[:len(good)-5]), good[len(good)-5]^1, 0, 0, 0, 0), 512),
		"dirty padding":         append(device(n, good, 511), 1),
	} {
		if raw, err := initdata.DecodeDevice(bytes.NewReader(image)); err == nil {
			t.Errorf("%s: accepted as %.20q", name, raw)
		} else if errors.Is(err, initdata.ErrNoMagic) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, image := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 1024),
		"another magic":  []byte(strings.Repeat("initdat\x00", 64)),
		"half the magic": []byte("init")} {
		if _, err := initdata.DecodeDevice(bytes.NewReader(image)); !errors.Is(err, initdata.ErrNoMagic) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken device")
	if _, err := initdata.DecodeDevice(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// A few kilobytes that become gigabytes would take the guest down before its policy is even read.
func TestAttackCompressionBomb(t *testing.T) {
	const size = 64 << 20
	bomb := compress(t, make([]byte, size))
	image := device(uint64(len(bomb)), bomb, (16+len(bomb)+511)/512*512)
	annotation := base64.StdEncoding.EncodeToString(bomb)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := initdata.DecodeDevice(bytes.NewReader(image)); err == nil {
		t.Error("device: accepted")
	}
	if _, err := initdata.DecodeAnnotation(annotation); err == nil {
		t.Error("annotation: accepted")
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > size/2 {
		t.Errorf("refusing it took %d bytes of memory", took)
	}
}

// What follows the text is under no digest; a reader that went on reading would see more than was bound.
func TestAttackMoreAfterTheText(t *testing.T) {
	good := compress(t, []byte("some content"))
	for name, compressed := range map[string][]byte{
		"bytes":          append(bytes.Clone(good), "more"...),
		"zeros":          append(bytes.Clone(good), 0, 0),
		"another member": append(bytes.Clone(good), compress(t, []byte(", and more"))...),
	} {
		t.Run(name, func(t *testing.T) {
			if raw, err := initdata.DecodeDevice(bytes.NewReader(device(uint64(len(compressed)), compressed, 512))); err == nil {
				t.Errorf("device with %s: accepted as %q", name, raw)
			}
			if raw, err := initdata.DecodeAnnotation(base64.StdEncoding.EncodeToString(compressed)); err == nil {
				t.Errorf("annotation with %s: accepted as %q", name, raw)
			}
		})
	}
}

func TestDecodeAnnotationRefuses(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(compress(t, []byte("some content")))
	for name, value := range map[string]string{
		"nothing":         "",
		"plain text":      "some content",
		"not compressed":  base64.StdEncoding.EncodeToString([]byte("some content")),
		"without padding": strings.TrimRight(base64.StdEncoding.EncodeToString(compress(t, []byte("some contents"))), "="),
		"URL alphabet":    strings.NewReplacer("+", "-", "/", "_").Replace(good) + "-_",
		"a blank":         good[:20] + " " + good[20:], "cut": good[:20], "too long": strings.Repeat("A", 4*initdata.MaxSize),
	} {
		if raw, err := initdata.DecodeAnnotation(value); err == nil {
			t.Errorf("%s: accepted as %.20q", name, raw)
		}
	}
}

// base64(1) wraps its lines, and so do YAML files.
func TestAnnotationWithLineBreaks(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(compress(t, []byte("some content")))
	if raw, err := initdata.DecodeAnnotation(good[:20] + "\r\n" + good[20:] + "\n"); err != nil ||
		string(raw) != "some content" {
		t.Errorf("%q, %v", raw, err)
	}
}

func FuzzAnnotation(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString(compress(f, []byte(valid))))
	f.Add("H4sIAAAAAAAA/w==")
	f.Fuzz(func(t *testing.T, value string) {
		raw, err := initdata.DecodeAnnotation(value)
		if err != nil {
			return
		}
		again, err := initdata.EncodeAnnotation(raw)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := initdata.DecodeAnnotation(again); err != nil || !bytes.Equal(back, raw) {
			t.Fatalf("%q came back as %q, %v", raw, back, err)
		}
	})
}

func FuzzDevice(f *testing.F) {
	image, err := initdata.EncodeDevice([]byte("some content"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image)
	f.Add(device(1<<40, nil, 512))
	f.Fuzz(func(t *testing.T, image []byte) {
		raw, err := initdata.DecodeDevice(bytes.NewReader(image))
		if err != nil {
			return
		}
		again, err := initdata.EncodeDevice(raw)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := initdata.DecodeDevice(bytes.NewReader(again)); err != nil || !bytes.Equal(back, raw) {
			t.Fatalf("%q came back as %q, %v", raw, back, err)
		}
	})
}
