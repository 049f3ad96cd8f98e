// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vmm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/sandbox/frozen"
	"github.com/nacre-project/nacre/internal/sandbox/qemu"
	"golang.org/x/sys/unix"
)

// parentRole makes the test binary start a machine, print its pid and wait to be killed.
const parentRole = "NACRE_TEST_VMM_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentRole) != "" {
		os.Exit(parent())
	}
	os.Exit(m.Run())
}

func parent() int {
	p, console, err := boot(context.Background(), "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer console.Close()
	fmt.Println(p.PID())
	<-p.Done()
	return 0
}

const greeting = "hello from real mode"

// tinyKernel is the least that passes for a kernel image (Linux x86 boot protocol 2.00): one boot sector, one sector of
// real-mode code that prints a greeting on the first serial port and halts, and an empty protected-mode part.
func tinyKernel() []byte {
	image := make([]byte, 2048)
	image[0x1f1] = 1 // sectors of real-mode code
	image[0x1f4] = 1 // protected-mode part in units of 16 bytes
	copy(image[0x1fe:], []byte{0x55, 0xaa})
	copy(image[0x200:], []byte{0xeb, 0x66}) // jmp 0x268
	copy(image[0x202:], "HdrS")
	copy(image[0x206:], []byte{0x00, 0x02})
	image[0x211] = 1 // loaded high
	copy(image[0x214:], []byte{0x00, 0x00, 0x10, 0x00})
	copy(image[0x268:], []byte{
		0xbe, 0x80, 0x02, // mov si, 0x280
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz   +3
		0xee,       // out  dx, al
		0xeb, 0xf8, // jmp  lodsb
		0xfa,       // cli
		0xf4,       // hlt
		0xeb, 0xfd, // jmp  hlt
	})
	copy(image[0x280:], greeting+"\n\x00")
	return image
}

func boot(ctx context.Context, binary string) (*Process, io.ReadCloser, error) {
	kernel, err := frozen.New("kernel", bytes.NewReader(tinyKernel()), 1<<20)
	if err != nil {
		return nil, nil, err
	}
	defer kernel.Close()
	files := &Files{}
	m := qemu.Machine{Name: "test", Accel: qemu.TCG, VCPUs: 1, MemoryMiB: 128, Kernel: files.Lend(kernel.OS())}
	console, fd, err := files.Pipe("console")
	if err != nil {
		return nil, nil, err
	}
	m.Console = fd
	p, err := Start(ctx, binary, m, files, slog.New(slog.DiscardHandler))
	if err != nil {
		console.Close()
		return nil, nil, err
	}
	return p, console, nil
}

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(Binary); err != nil {
		t.Skipf("%s is not installed; `make deps` installs it", Binary)
	}
}

// expire ends a test that hangs, by cancelling what it waits for.
func expire(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// waitGone returns when the process is gone. It follows the process, not the number.
func waitGone(t *testing.T, pidfd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 60_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			t.Fatalf("the machine outlived what it should not (%v)", err)
		}
		return
	}
}

func TestMachineRunsAndStops(t *testing.T) {
	needQEMU(t)
	p, console, err := boot(expire(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	defer console.Close()
	found := make(chan error, 1)
	go func() {
		r := bufio.NewReader(io.LimitReader(console, 1<<16))
		for {
			line, err := r.ReadString('\n')
			if strings.Contains(line, greeting) || err != nil {
				found <- err
				return
			}
		}
	}()
	select {
	case err := <-found:
		if err != nil {
			t.Fatalf("the console ended without the greeting: %v", err)
		}
	case <-expire(t).Done():
		t.Fatal("no greeting")
	}
	pidfd, err := unix.PidfdOpen(p.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if os.Geteuid() == 0 {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"\nUid:\t6", "\nGroups:\t \n", "\nCapEff:\t0000000000000000\n", "\nSeccomp:\t2\n"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("the process is not confined: no %q in\n%s", want, status)
			}
		}
	}
	p.Stop()
	waitGone(t, pidfd)
	if err := p.Err(); err != nil {
		t.Errorf("asked to quit, it ended with %v", err)
	}
	p.Stop() // a second time harms nothing
}

// kill -9 leaves a parent no chance to clean up; the machine must go all the same.
func TestMachineDiesWithItsParent(t *testing.T) {
	needQEMU(t)
	cmd := exec.CommandContext(expire(t), os.Args[0])
	cmd.Env = append(os.Environ(), parentRole+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the parent said no pid: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitGone(t, pidfd)
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	if _, _, err := boot(expire(t), "/nonexistent/qemu"); err == nil || !strings.Contains(err.Error(), "install") {
		t.Errorf("without a QEMU: %v", err)
	}
	needQEMU(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := boot(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before the start: %v", err)
	}
	// Something that is a program, but no QEMU.
	if _, _, err := boot(expire(t), "/bin/false"); err == nil {
		t.Error("/bin/false passed for a QEMU")
	}
}
