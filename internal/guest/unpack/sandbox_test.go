// SPDX-License-Identifier: Apache-2.0

package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/internal/guest/unpack"
	"github.com/nacre-project/nacre/internal/guest/unpack/unpacktest"
)

func TestMain(m *testing.M) { unpacktest.Main(m) }

func layer(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestSandbox(t *testing.T) {
	sandbox := unpacktest.Sandbox(t, unpack.Limits{})
	for _, parent := range []string{os.TempDir(), "/dev/shm"} { // the latter, a tmpfs, is what the guest has
		dir, err := os.MkdirTemp(parent, "nacre-unpack-")
		if err != nil {
			t.Skipf("no directory in %s: %v", parent, err)
		}
		t.Run(parent, func(t *testing.T) { unpackEverything(t, sandbox, dir) })
		os.RemoveAll(dir)
	}
}

func unpackEverything(t *testing.T, sandbox *unpack.Sandbox, dir string) {
	stream := layer(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "a", Mode: 0o1777, Uid: 1000},
		tar.Header{Typeflag: tar.TypeReg, Name: "a/su", Mode: 0o4755, Uid: 4294967294, Size: 3 << 20, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}},
		tar.Header{Typeflag: tar.TypeReg, Name: "a/.wh.gone"},
		tar.Header{Typeflag: tar.TypeReg, Name: "a/.wh..wh..opq"},
		tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600},
		tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8},
	)
	stats, err := sandbox.Unpack(t.Context(), dir, bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	if want := (unpack.Stats{Entries: 6, Bytes: 3 << 20, Whiteouts: 2, DevicesSkipped: 1}); stats != want {
		t.Errorf("stats %+v, want %+v", stats, want)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "a/su"), &st); err != nil || st.Mode&0o7777 != 0o4755 || st.Uid != 4294967294 {
		t.Errorf("a/su: %+v, %v", st, err)
	}
	if err := unix.Lstat(filepath.Join(dir, "a/gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("a/gone: %+v, %v", st, err)
	}
	buf := make([]byte, 64)
	if n, err := unix.Lgetxattr(filepath.Join(dir, "a"), unpack.OpaqueXattr, buf); err != nil || string(buf[:n]) != "y" {
		t.Errorf("a is not opaque: %v", err)
	}
	if _, err := unix.Lgetxattr(filepath.Join(dir, "a/su"), "security.capability", buf); err != nil {
		t.Errorf("a/su has lost its capability: %v", err)
	}
}

func TestSandboxReportsRefusals(t *testing.T) {
	sandbox := unpacktest.Sandbox(t, unpack.Limits{Entries: 1})
	header := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
	_, err := sandbox.Unpack(t.Context(), t.TempDir(), bytes.NewReader(layer(t, header("a"), header("b\xff\n"))))
	if got, want := fmt.Sprint(err), `layer_too_large: entry "b\xff\n": more than 1 entries`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestSandboxReturnsTheStreamsError(t *testing.T) {
	sandbox := unpacktest.Sandbox(t, unpack.Limits{})
	broken := errors.New("the network is gone")
	whole := layer(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 1 << 20})
	stream := io.MultiReader(bytes.NewReader(whole[:4096]), iotest.ErrReader(broken))
	if _, err := sandbox.Unpack(t.Context(), t.TempDir(), stream); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

func TestSandboxEndsWithItsContext(t *testing.T) {
	sandbox := unpacktest.Sandbox(t, unpack.Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(layer(t, tar.Header{Typeflag: tar.TypeDir, Name: "a"})[:512])
		cancel()
		w.CloseWithError(ctx.Err())
	}()
	if _, err := sandbox.Unpack(ctx, t.TempDir(), r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

func TestSandboxIsNotStartedByHand(t *testing.T) {
	sandbox := unpacktest.Sandbox(t, unpack.Limits{})
	for _, args := range [][]string{{"unpack"}, {"unpack", "{}"}, {"unpack", "x"}} {
		out, err := exec.Command(sandbox.Executable, args...).Output()
		if err == nil || !strings.Contains(string(out), "layer_unpack_failed") {
			t.Errorf("%q: %v, %s", args, err, out)
		}
	}
}

// watched is an unpacker that has begun with its layer and waits for more.
type watched struct {
	layer string // its directory
	proc  string // /proc/<pid>
}

func watch(t *testing.T) watched {
	t.Helper()
	sandbox := unpacktest.Sandbox(t, unpack.Limits{})
	w := watched{layer: t.TempDir()}
	events, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(events)
	if _, err := unix.InotifyAddWatch(events, w.layer, unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := sandbox.Unpack(context.Background(), w.layer, reader) // outlives the test, until its cleanup
		reader.CloseWithError(err)
		done <- err
	}()
	stream := layer(t, tar.Header{Typeflag: tar.TypeDir, Name: "seen"})
	if _, err := writer.Write(stream[:512]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := writer.Write(stream[512:]); err != nil {
			t.Error(err)
		}
		writer.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if _, err := unix.Read(events, make([]byte, 4096)); err != nil { // until the directory is there
		t.Fatal(err)
	}
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range statuses {
		status, _ := os.ReadFile(path)
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", os.Getpid())) && strings.HasPrefix(string(cmdline), "nacre-unpack") {
			w.proc = filepath.Dir(path)
			return w
		}
	}
	t.Fatal("the unpacker is not among the processes")
	return w
}

// each calls f with the named line of every thread's status.
func (w watched) each(t *testing.T, field string, f func(value string)) {
	t.Helper()
	statuses, err := filepath.Glob(w.proc + "/task/*/status")
	if err != nil || len(statuses) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, path := range statuses {
		status, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(status), field+":\t")
		value, _, _ := strings.Cut(rest, "\n")
		if !ok {
			t.Fatalf("%s has no %s", path, field)
		}
		f(value)
	}
}

func TestAttackUnpackerCapabilities(t *testing.T) {
	w := watch(t)
	kept := uint64(1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_SETFCAP)
	for field, want := range map[string]uint64{"CapEff": kept, "CapPrm": kept, "CapInh": 0, "CapAmb": 0} {
		w.each(t, field, func(value string) {
			if got := fmt.Sprintf("%016x", want); value != got {
				t.Errorf("%s %s, want %s", field, value, got)
			}
		})
	}
}

func TestAttackUnpackerBoundingSet(t *testing.T) {
	kept := fmt.Sprintf("%016x", 1<<unix.CAP_CHOWN|1<<unix.CAP_DAC_OVERRIDE|1<<unix.CAP_FOWNER|1<<unix.CAP_FSETID|1<<unix.CAP_SETFCAP)
	watch(t).each(t, "CapBnd", func(value string) {
		if value != kept {
			t.Errorf("CapBnd %s, want %s", value, kept)
		}
	})
}

func TestAttackUnpackerNewPrivileges(t *testing.T) {
	watch(t).each(t, "NoNewPrivs", func(value string) {
		if value != "1" {
			t.Errorf("NoNewPrivs %s, want 1", value)
		}
	})
}

// The filter is in every thread; what it does is TestAttackUnpackerSocket's.
func TestAttackUnpackerFilter(t *testing.T) {
	watch(t).each(t, "Seccomp", func(value string) {
		if value != "2" {
			t.Errorf("Seccomp %s, want 2", value)
		}
	})
}

// TestAttackUnpackerMemory is a layer on which the unpacker grows until memory runs out: it must end before the agent.
func TestAttackUnpackerMemory(t *testing.T) {
	score, err := os.ReadFile(watch(t).proc + "/oom_score_adj")
	if err != nil || string(score) != "1000\n" {
		t.Errorf("%q, %v", score, err)
	}
}

func TestAttackUnpackerEnvironment(t *testing.T) {
	t.Setenv("NACRE_TEST_SECRET", "x")
	w := watch(t)
	environ, err := os.ReadFile(w.proc + "/environ")
	if err != nil || len(environ) != 0 {
		t.Errorf("environment %q, %v", environ, err)
	}
}

func TestAttackUnpackerInheritedDescriptor(t *testing.T) {
	key, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	leak, err := unix.FcntlInt(key.Fd(), unix.F_DUPFD, 100) // as somebody without close-on-exec would
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	w := watch(t)
	fds, err := os.ReadDir(w.proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(w.proc, "fd", fd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		standard := fd.Name() <= "2" && strings.HasPrefix(target, "pipe:")
		if !standard && !strings.HasPrefix(target, "anon_inode:[event") && target != "/" && target != w.layer {
			t.Errorf("descriptor %s is %s", fd.Name(), target)
		}
	}
}

func TestAttackUnpackerOtherFiles(t *testing.T) {
	w := watch(t)
	mounts, err := os.ReadFile(w.proc + "/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	if len(lines) != 1 || !strings.Contains(lines[0], " / rw,nosuid,nodev,noexec") {
		t.Errorf("mounts: %q", lines)
	}
	root, err := os.ReadDir(w.proc + "/root")
	if err != nil || len(root) != 1 || root[0].Name() != "seen" {
		t.Errorf("the root directory: %v, %v", root, err)
	}
}

func TestAttackUnpackerNamespaces(t *testing.T) {
	w := watch(t)
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts"} {
		theirs, err := os.Readlink(filepath.Join(w.proc, "ns", ns))
		ours, err2 := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || err2 != nil || theirs == ours {
			t.Errorf("%s: %s like ours, %v %v", ns, theirs, err, err2)
		}
	}
}

func TestUnpackerLimits(t *testing.T) {
	w := watch(t)
	text, err := os.ReadFile(w.proc + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Max core file size        0 ", "Max open files            64 ", "Max data size             1073741824 "} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
