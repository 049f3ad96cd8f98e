// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/attester"
	testmachine "github.com/nacre-project/nacre/test/machine"
)

// platform signs for the fakes of all tests: making its keys takes seconds.
var platform = testmachine.Lazy("ours")

var hostData = [32]byte{1, 2, 3, 31: 4}

func launch(t testing.TB) *signer.Processor {
	t.Helper()
	p, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	return p.Launch(signer.Launch{HostData: hostData})
}

// fake is a machine of real files and pipes.
type fake struct {
	machine
	t    *testing.T
	proc *signer.Processor
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, proc: launch(t), machine: machine{
		root:  t.TempDir(),
		mkdir: func(path string) error { return os.Mkdir(path, 0o700) },
		rmdir: func(path string) error {
			// A fake's configfs may be waiting for somebody to write here.
			if in, err := os.OpenFile(filepath.Join(path, "inblob"), os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				in.Close()
			}
			return os.RemoveAll(path)
		},
		ioctl: func(*os.File, *extReportRequest) error { return unix.ENOTTY },
	}}
	f.write("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme sse2 hypervisor\n\nprocessor\t: 1\n")
	return f
}

func (f *fake) write(path, content string) {
	f.t.Helper()
	path = f.path(path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

// withTSM has the machine's configfs make reports for a provider. A change may falsify them.
func (f *fake) withTSM(provider string, change func(report, table []byte) ([]byte, []byte)) {
	f.t.Helper()
	if err := os.MkdirAll(f.path(tsmDir), 0o755); err != nil {
		f.t.Fatal(err)
	}
	f.mkdir = func(dir string) error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "provider"), []byte(provider+"\n"), 0o400); err != nil {
			return err
		}
		in, out, aux := filepath.Join(dir, "inblob"), filepath.Join(dir, "outblob"), filepath.Join(dir, "auxblob")
		for _, pipe := range []string{in, out, aux} {
			if err := unix.Mkfifo(pipe, 0o600); err != nil {
				return err
			}
		}
		go func() {
			reportData, err := os.ReadFile(in)
			if err != nil || len(reportData) != 64 {
				return // the directory was only looked at
			}
			report, table, err := f.proc.Report([64]byte(reportData), 0)
			if err != nil {
				f.t.Error(err)
				return
			}
			if change != nil {
				report, table = change(report, table)
			}
			os.WriteFile(out, report, 0)
			os.WriteFile(aux, table, 0)
		}()
		return nil
	}
}

// withDevice gives the machine a guest driver. A change may falsify its answer.
func (f *fake) withDevice(change func(*extReportRequest)) {
	f.write(sevGuestDevice, "")
	f.ioctl = func(_ *os.File, r *extReportRequest) error {
		report, table, err := f.proc.Report(r.reportData, 0)
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(r.response[4:], uint32(len(report)))
		copy(r.response[32:], report)
		copy(r.certs[:], table)
		if change != nil {
			change(r)
		}
		return nil
	}
}

const portPath = "/dev/virtio-ports/org.nacre.simtee.0"

// withPort gives the machine a port, and returns the host's end of it.
func (f *fake) withPort() *os.File {
	f.t.Helper()
	host, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		f.t.Skipf("no pseudo terminals on this machine: %v", err)
	}
	f.t.Cleanup(func() { host.Close() })
	conn, err := host.SyscallConn()
	if err != nil {
		f.t.Fatal(err)
	}
	var number int
	var failed error
	err = conn.Control(func(fd uintptr) {
		raw := &unix.Termios{Cflag: unix.CS8 | unix.CREAD, Cc: [19]uint8{unix.VMIN: 1}}
		unlock := int32(0)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlock)))
		if errno != 0 {
			failed = errno
			return
		}
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		number, failed = n, errors.Join(err, unix.IoctlSetTermios(int(fd), unix.TCSETS, raw))
	})
	if err := errors.Join(err, failed); err != nil {
		f.t.Fatal(err)
	}
	path := f.path(portPath)
	err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(fmt.Sprintf("/dev/pts/%d", number), path))
	if err != nil {
		f.t.Fatal(err)
	}
	return host
}

// checkEvidence verifies what an attester collects, as a trustee does that trusts the fake's signer.
func checkEvidence(t *testing.T, a attester.Attester) {
	t.Helper()
	p, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	v := snp.NewVerifier(snp.Config{Roots: []snp.Root{p.Root()}})
	for _, reportData := range [][]byte{{1}, bytes.Repeat([]byte{2}, 48), bytes.Repeat([]byte{3}, 64)} {
		evidence, err := a.Evidence(t.Context(), reportData)
		if err != nil {
			t.Fatal(err)
		}
		want := attest.Expected{ReportData: reportData, InitDataDigest: hostData[:]}
		if _, err := v.Verify(t.Context(), evidence, want); err != nil {
			t.Errorf("%d bytes of report data: %v", len(reportData), err)
		}
	}
	if _, err := a.Evidence(t.Context(), make([]byte, 65)); err == nil {
		t.Error("65 bytes of report data got evidence")
	}
	if a.TEE() != attest.SNP {
		t.Errorf("the platform is %q", a.TEE())
	}
	checkBinding(t, a)
}

func checkBinding(t *testing.T, a attester.Attester) {
	t.Helper()
	for _, test := range []struct {
		name   string
		digest []byte
		want   attest.Code
	}{
		{"the digest", hostData[:], ""},
		{"a longer one", append(bytes.Clone(hostData[:]), make([]byte, 16)...), ""},
		{"another", bytes.Repeat([]byte{9}, 32), attest.CodeInitDataMismatch},
		{"a shorter one", hostData[:3], attest.CodeInitDataMismatch},
		{"none", nil, attest.CodeInitDataMismatch},
	} {
		err := a.BindInitData(t.Context(), test.digest)
		if got := attest.CodeOf(err); got != test.want || (err == nil) != (test.want == "") {
			t.Errorf("%s: code %q, wanted %q: %v", test.name, got, test.want, err)
		}
	}
}

func TestTSM(t *testing.T) {
	f := newFake(t)
	f.withTSM("sev_guest", nil)
	a, err := f.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkEvidence(t, a)
	if a.Simulated() {
		t.Error("it says that it is simulated")
	}
	if left, err := os.ReadDir(f.path(tsmDir)); err != nil || len(left) > 0 {
		t.Errorf("reports leave %v behind, %v", left, err)
	}
}

func TestTSMWithoutCertificates(t *testing.T) {
	f := newFake(t)
	f.withTSM("sev_guest", func(report, _ []byte) ([]byte, []byte) { return report, nil })
	a, err := f.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	evidence, err := a.Evidence(t.Context(), []byte{1})
	if err != nil || !bytes.HasSuffix(evidence, []byte(`"cert_chain":null}`)) {
		t.Errorf("%s, %v; wanted no certificates", evidence, err)
	}
}

func TestDevice(t *testing.T) {
	f := newFake(t)
	f.withDevice(nil)
	a, err := f.open(Options{SimulatedDevice: portPath})
	if err != nil {
		t.Fatal(err)
	}
	checkEvidence(t, a)
	if a.Simulated() {
		t.Error("it says that it is simulated")
	}
}

func TestTSMBeforeDevice(t *testing.T) {
	f := newFake(t)
	f.withDevice(func(*extReportRequest) { t.Error("the device was used although configfs is there") })
	f.withTSM("sev_guest", nil)
	a, err := f.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkEvidence(t, a)
}

// TestHostileReports falsifies what comes from below: nothing of it may become evidence.
func TestHostileReports(t *testing.T) {
	for name, change := range map[string]func(report, table []byte) ([]byte, []byte){
		"another report data": func(r, c []byte) ([]byte, []byte) { r[0x50] ^= 1; return r, c },
		"a short report":      func(r, c []byte) ([]byte, []byte) { return r[:1183], c },
		"a long report":       func(r, c []byte) ([]byte, []byte) { return append(r, 0), c },
		"an endless report":   func(r, c []byte) ([]byte, []byte) { return make([]byte, 1<<20), c },
		"version 6":           func(r, c []byte) ([]byte, []byte) { r[0] = 6; return r, c },
		"reserved bytes":      func(r, c []byte) ([]byte, []byte) { r[0x29F] = 1; return r, c },
		"a torn table":        func(r, c []byte) ([]byte, []byte) { return r, c[:30] },
		"an endless table":    func(r, c []byte) ([]byte, []byte) { return r, make([]byte, 1<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.withTSM("sev_guest", change)
			a, err := f.open(Options{})
			if err != nil {
				t.Fatal(err)
			}
			if evidence, err := a.Evidence(t.Context(), []byte{1}); err == nil {
				t.Errorf("it became evidence: %s", evidence)
			}
		})
	}
	for name, change := range map[string]func(*extReportRequest){
		"firmware status":   func(r *extReportRequest) { r.response[0] = 0x16 },
		"size":              func(r *extReportRequest) { r.response[4]-- },
		"report data":       func(r *extReportRequest) { r.response[32+0x50] ^= 1 },
		"certificate table": func(r *extReportRequest) { r.certs[18] = 0xFF },
	} {
		t.Run("device "+name, func(t *testing.T) {
			f := newFake(t)
			f.withDevice(change)
			a, err := f.open(Options{})
			if err != nil {
				t.Fatal(err)
			}
			if evidence, err := a.Evidence(t.Context(), []byte{1}); err == nil {
				t.Errorf("it became evidence: %s", evidence)
			}
		})
	}
}

func TestSimulated(t *testing.T) {
	f := newFake(t)
	host := f.withPort()
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { served <- f.proc.Serve(ctx, host) }()
	defer func() { cancel(); <-served }()

	a, err := f.open(Options{SimulatedDevice: portPath})
	if err != nil {
		t.Fatal(err)
	}
	if !a.Simulated() {
		t.Error("it does not say that it is simulated")
	}
	checkEvidence(t, a)
}

// TestSimulatedGivesUp has the host answer too late, and then to the next question.
func TestSimulatedGivesUp(t *testing.T) {
	f := newFake(t)
	host := f.withPort()
	a, err := f.open(Options{SimulatedDevice: portPath})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		io.ReadFull(host, make([]byte, 2*simtee.RequestSize))
		cancel()
	}()
	if _, err := a.Evidence(ctx, []byte{1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, wanted the context's error", err)
	}

	report, table, err := f.proc.Report([64]byte{1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	late := simtee.Response{Report: report, CertTable: table}
	served := make(chan error, 1)
	go func() {
		if err := simtee.WriteResponse(host, late); err != nil {
			t.Error(err)
		}
		served <- f.proc.Serve(t.Context(), host)
	}()
	if _, err := a.Evidence(t.Context(), []byte{2}); err != nil {
		t.Error(err)
	}
}

// line is a port whose answers are written down.
type line struct{ io.Reader }

func (line) Write(b []byte) (int, error) { return len(b), nil }

func TestSimulatedHostileHost(t *testing.T) {
	answer := func(r simtee.Response) string {
		var b bytes.Buffer
		if err := simtee.WriteResponse(&b, r); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	other, table, err := launch(t).Report([64]byte{9}, 0)
	if err != nil {
		t.Fatal(err)
	}
	bad := answer(simtee.Response{Status: simtee.StatusBadRequest})
	for name, answers := range map[string]string{
		"nothing":                   "",
		"garbage":                   strings.Repeat("x", 1<<16),
		"endless refusals":          strings.Repeat(bad, 1000),
		"failure":                   answer(simtee.Response{Status: simtee.StatusFailed}),
		"a status that is none":     strings.Repeat(answer(simtee.Response{Status: 77}), 10),
		"answers to other requests": strings.Repeat(answer(simtee.Response{Report: other, CertTable: table}), 1000),
	} {
		if _, _, err := exchange(line{strings.NewReader(answers)}, [64]byte{1}); err == nil {
			t.Errorf("%s: became a report", name)
		}
	}
	good := bad + answer(simtee.Response{Report: other, CertTable: table})
	if _, _, err := exchange(line{strings.NewReader(good)}, [64]byte{9}); err != nil {
		t.Errorf("a refusal and the answer: %v", err)
	}
}

// TestAttackSimulatedDeviceOnRealPlatform is a host that offers a simulated processor to a guest which has a real one:
// its reports would be the host's own.
func TestAttackSimulatedDeviceOnRealPlatform(t *testing.T) {
	for name, show := range map[string]func(*fake){
		"an SNP guest without driver":        func(f *fake) { f.write("/sys/devices/platform/sev-guest/uevent", "") },
		"an SNP guest of a newer kernel":     func(f *fake) { f.write("/sys/devices/system/cpu/sev/vmpl", "0\n") },
		"a TDX guest":                        func(f *fake) { f.write("/dev/tdx_guest", "") },
		"an SNP processor":                   func(f *fake) { f.write("/proc/cpuinfo", "flags: sse2 sev_snp\n") },
		"an SEV-ES processor":                func(f *fake) { f.write("/proc/cpuinfo", "flags\t: sev_es\n") },
		"a TDX guest by its flag":            func(f *fake) { f.write("/proc/cpuinfo", "flags: a tdx_guest b\n") },
		"a configfs of another platform":     func(f *fake) { f.withTSM("tdx_guest", nil); f.write("/dev/tdx_guest", "") },
		"a machine that does not say":        func(f *fake) { f.write("/proc/cpuinfo", "processor: 0\n") },
		"a machine that hides its processor": func(f *fake) { os.Remove(f.path("/proc/cpuinfo")) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			host := f.withPort()
			go f.proc.Serve(t.Context(), host)
			show(f)
			if _, err := f.open(Options{SimulatedDevice: portPath}); err == nil {
				t.Error("the simulated device is used")
			}
		})
	}
}

func TestNoTEE(t *testing.T) {
	f := newFake(t)
	for _, o := range []Options{{}, {SimulatedDevice: "/dev/missing"}, {SimulatedDevice: "/proc/cpuinfo"}} {
		if _, err := f.open(o); !errors.Is(err, attester.ErrNoTEE) {
			t.Errorf("%+v: %v, wanted %v", o, err, attester.ErrNoTEE)
		}
	}
	// The device is there, but nobody named it.
	f.withPort()
	if _, err := f.open(Options{}); !errors.Is(err, attester.ErrNoTEE) {
		t.Errorf("an unnamed port: %v, wanted %v", err, attester.ErrNoTEE)
	}
}

// TestDriverInterface pins what the kernel's headers say on x86-64.
func TestDriverInterface(t *testing.T) {
	for name, got := range map[string][2]uintptr{
		"struct snp_guest_request_ioctl": {unsafe.Sizeof(guestRequest{}), 32},
		"req_data":                       {unsafe.Offsetof(guestRequest{}.RequestData), 8},
		"resp_data":                      {unsafe.Offsetof(guestRequest{}.ResponseData), 16},
		"exitinfo2":                      {unsafe.Offsetof(guestRequest{}.ExitInfo2), 24},
		"struct snp_ext_report_req":      {unsafe.Sizeof(extReportRequestData{}), 112},
		"vmpl":                           {unsafe.Offsetof(extReportRequestData{}.VMPL), 64},
		"certs_address":                  {unsafe.Offsetof(extReportRequestData{}.CertsAddress), 96},
		"certs_len":                      {unsafe.Offsetof(extReportRequestData{}.CertsSize), 104},
		"SNP_GET_EXT_REPORT":             {snpGetExtReport, 0xC0205302},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is %#x, wanted %#x", name, got[0], got[1])
		}
	}
	// A file is no device: the call itself must go through, and say so.
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := ioctlExtReport(file, new(extReportRequest)); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("got %v, wanted %v", err, unix.ENOTTY)
	}
}

func TestDeadContext(t *testing.T) {
	f := newFake(t)
	f.withPort()
	a, err := f.open(Options{SimulatedDevice: portPath})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if _, err := a.Evidence(ctx, []byte{1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, wanted the context's error", err)
	}
}
