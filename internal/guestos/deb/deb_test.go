// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// member is one member of an ar archive.
func member(name string, data []byte) string {
	padding := ""
	if len(data)%2 == 1 {
		padding = "\n"
	}
	return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n%s%s", name, 0, 0, 0, "100644", len(data), data, padding)
}

func tarball(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Mode = 0o644
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "content of " + h.Name
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compress(t testing.TB, suffix string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case "":
		return data
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func files(t testing.TB) []byte {
	return tarball(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir},
		tar.Header{Name: "./usr/", Typeflag: tar.TypeDir},
		tar.Header{Name: "./usr/file", Typeflag: tar.TypeReg},
		tar.Header{Name: "./usr/link", Typeflag: tar.TypeSymlink, Linkname: "file"},
	)
}

func walk(pkg string) ([]string, error) {
	var got []string
	err := Walk(strings.NewReader(pkg), func(e Entry, content io.Reader) error {
		data, err := io.ReadAll(content)
		got = append(got, fmt.Sprintf("%s %c %s%s", e.Path, e.Header.Typeflag, e.Header.Linkname, data))
		return err
	})
	return got, err
}

func TestWalk(t *testing.T) {
	want := []string{"usr 5 ", "usr/file 0 content of ./usr/file", "usr/link 2 file"}
	for _, suffix := range []string{"", ".gz", ".xz", ".zst"} {
		pkg := arMagic + member("debian-binary", []byte("2.0\n")) + member("control.tar.xz", []byte("odd")) +
			member("data.tar"+suffix, compress(t, suffix, files(t)))
		got, err := walk(pkg)
		if err != nil {
			t.Errorf("data.tar%s: %v", suffix, err)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("data.tar%s: entries %q, want %q", suffix, got, want)
		}
	}
}

func TestWalkStopsWhereVisitFails(t *testing.T) {
	stop := errors.New("stop")
	n := 0
	err := Walk(strings.NewReader(arMagic+member("data.tar", files(t))), func(Entry, io.Reader) error {
		n++
		return stop
	})
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("Walk: %v after %d entries", err, n)
	}
}

func TestWalkHostile(t *testing.T) {
	data := files(t)
	named := func(name string) string {
		return arMagic + member("data.tar", tarball(t, tar.Header{Name: name, Typeflag: tar.TypeReg}))
	}
	header := func(size string) string {
		return arMagic + fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10s`\n", "data.tar", 0, 0, 0, "100644", size)
	}
	for name, pkg := range map[string]string{
		"empty":               "",
		"not an archive":      "PK\x03\x04" + strings.Repeat("x", 100),
		"no member":           arMagic,
		"no data":             arMagic + member("debian-binary", []byte("2.0\n")),
		"half a header":       arMagic + member("data.tar", data)[:30],
		"no terminator":       strings.Replace(arMagic+member("data.tar", data), "`\n", "xx", 1),
		"size is not decimal": header("0x10"),
		"negative size":       header("-1"),
		"size over the cap":   header("9999999999"),
		"member cut short":    arMagic + member("control.tar", data)[:600],
		"data cut short":      arMagic + member("data.tar", data)[:600],
		"no padding":          strings.TrimSuffix(arMagic+member("x", []byte("odd")), "\n"),
		"unknown compression": arMagic + member("data.tar.lz", data),
		"wrong compression":   arMagic + member("data.tar.xz", data),
		"wrong gzip":          arMagic + member("data.tar.gz", data),
		"wrong zstd":          arMagic + member("data.tar.zst", data),
		"xz cut short":        arMagic + member("data.tar.xz", compress(t, ".xz", data)[:100]),
		"absolute name":       named("/etc/passwd"),
		"name above the root": named("../etc/passwd"),
		"name leads out":      named("./usr/../../etc/passwd"),
		"ends in dots":        named("usr/.."),
	} {
		if got, err := walk(pkg); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v (%d entries), want ErrFormat", name, err, len(got))
		}
	}
}

func FuzzWalk(f *testing.F) {
	data := files(f)
	f.Add([]byte(arMagic + member("data.tar", data)))
	f.Add([]byte(arMagic + member("debian-binary", []byte("2.0\n")) + member("data.tar.gz", compress(f, ".gz", data))))
	f.Add([]byte(arMagic + member("data.tar.zst", compress(f, ".zst", data))))
	f.Add([]byte(arMagic))
	f.Fuzz(func(t *testing.T, pkg []byte) {
		_ = Walk(bytes.NewReader(pkg), func(e Entry, content io.Reader) error {
			if e.Path == "" || e.Path[0] == '/' || e.Path == ".." || strings.HasPrefix(e.Path, "../") {
				t.Errorf("entry %q", e.Path)
			}
			_, err := io.Copy(io.Discard, io.LimitReader(content, 1<<20))
			return err
		})
	})
}
