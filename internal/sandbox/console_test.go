// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sandbox

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode"
)

func TestConsoleFindsTheRefusal(t *testing.T) {
	for name, c := range map[string]struct {
		printed string
		want    GuestRefused
	}{
		"plain":         {"nacre: refused code=root_verity block 3 is not what was measured\n", GuestRefused{"root_verity", "block 3 is not what was measured"}},
		"after a stamp": {"[    1.2] nacre: refused code=boot_failed x\r\n", GuestRefused{"boot_failed", "x"}},
		"the first":     {"nacre: refused code=a 1\nnacre: refused code=b 2\n", GuestRefused{"a", "1"}},
		"no text":       {"nacre: refused code=boot_failed\n", GuestRefused{Code: "boot_failed"}},
		"escapes":       {"nacre: refused code=a \x1b[2Jgone\x07\u202e\xff\n", GuestRefused{"a", "[2Jgone  ?"}},
	} {
		t.Run(name, func(t *testing.T) {
			sink := &console{copyTo: io.Discard}
			// Byte by byte, as a serial port delivers.
			for _, b := range []byte(c.printed) {
				_, _ = sink.Write([]byte{b})
			}
			if got := sink.refusal(); got == nil || *got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestConsoleSeesNoRefusal(t *testing.T) {
	for name, printed := range map[string]string{
		"other text":      "Linux version 6\n",
		"no newline yet":  "nacre: refused code=a b",
		"no code":         "nacre: refused code= text\n",
		"code with marks": "nacre: refused code=a;rm text\n",
		"endless code":    "nacre: refused code=" + strings.Repeat("a", 65) + " x\n",
		"too far right":   strings.Repeat("x", maxLine) + "nacre: refused code=a b\n",
	} {
		sink := &console{copyTo: io.Discard}
		_, _ = sink.Write([]byte(printed))
		if got := sink.refusal(); got != nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestConsoleIsCapped(t *testing.T) {
	sink := &console{copyTo: io.Discard}
	for range 100 {
		_, _ = sink.Write(bytes.Repeat([]byte("line of a guest that will not stop\n"), 1000))
	}
	_, _ = sink.Write([]byte("the end\n"))
	if len(sink.kept) > maxConsole || len(sink.line) > maxLine {
		t.Errorf("kept %d and %d bytes", len(sink.kept), len(sink.line))
	}
	if last := sink.last(1); len(last) != 1 || last[0] != "the end" {
		t.Errorf("last line %q", last)
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("nacre: refused code=a b\nmore\x00\xff"))
	f.Fuzz(func(t *testing.T, printed []byte) {
		sink := &console{copyTo: io.Discard}
		_, _ = sink.Write(printed)
		lines := sink.last(5)
		if refused := sink.refusal(); refused != nil {
			lines = append(lines, refused.Code, refused.Text, refused.Error())
		}
		for _, line := range lines {
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q reaches a terminal", line)
			}
		}
	})
}
