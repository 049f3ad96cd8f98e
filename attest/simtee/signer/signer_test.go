// SPDX-License-Identifier: Apache-2.0

package signer_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-sev-guest/verify"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/test/machine"
)

// platform is one for all tests of the package: making its keys takes seconds.
var platform = machine.Lazy("ours")

func testPlatform(t testing.TB) *signer.Platform {
	t.Helper()
	p, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEvidenceVerifies(t *testing.T) {
	p := testPlatform(t)
	launch := signer.Launch{Measurement: [48]byte{1, 2, 3}, HostData: [32]byte{4, 5, 6}}
	evidence, err := p.Launch(launch).Evidence([]byte("bound to this"))
	if err != nil {
		t.Fatal(err)
	}
	v := snp.NewVerifier(snp.Config{Roots: []snp.Root{p.Root()}})
	claims, err := v.Verify(t.Context(), evidence, attest.Expected{
		ReportData: []byte("bound to this"), InitDataDigest: []byte{4, 5, 6},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !claims.Simulated || !strings.HasPrefix(claims.Root, "simulated sha256:") {
		t.Errorf("the claims say simulated %v, root %q", claims.Simulated, claims.Root)
	}
	if got, want := claims.Values["measurement"], "010203"+strings.Repeat("0", 90); got != want {
		t.Errorf("measurement is %v, wanted %v", got, want)
	}
}

// TestAttackSimulatedRoot is a host that simulates a platform which nobody told the verifier to trust.
func TestAttackSimulatedRoot(t *testing.T) {
	evidence, err := testPlatform(t).Launch(signer.Launch{}).Evidence([]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = snp.NewVerifier(snp.Config{}).Verify(t.Context(), evidence, attest.Expected{ReportData: []byte{1}})
	if got := attest.CodeOf(err); got != attest.CodeRootUntrusted {
		t.Errorf("code %q, wanted %q: %v", got, attest.CodeRootUntrusted, err)
	}
}

// TestOracle has an independent implementation check the report's signature.
func TestOracle(t *testing.T) {
	report, table, err := testPlatform(t).Launch(signer.Launch{}).Report([64]byte{7}, 0)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := snp.ParseCertTable(table)
	if err != nil || len(certs) != 1 || certs[0].Type != snp.CertVCEK {
		t.Fatalf("the table holds %v, %v; wanted a VCEK", certs, err)
	}
	vcek, err := x509.ParseCertificate(certs[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.SnpReportSignature(report, vcek); err != nil {
		t.Error(err)
	}
}

func TestLaunch(t *testing.T) {
	p := testPlatform(t)
	parse := func(proc *signer.Processor, vmpl uint32) *snp.Report {
		t.Helper()
		b, _, err := proc.Report([64]byte{1}, vmpl)
		if err != nil {
			t.Fatal(err)
		}
		r, err := snp.ParseReport(b)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, second := p.Launch(signer.Launch{}), p.Launch(signer.Launch{Policy: uint64(snp.PolicyDebug)})
	a, b, c := parse(first, 0), parse(first, 3), parse(second, 0)
	if a.Policy != 0x30000 || c.Policy != snp.PolicyDebug {
		t.Errorf("policies are %#x and %#x", a.Policy, c.Policy)
	}
	if a.ReportID != b.ReportID || a.ReportID == c.ReportID {
		t.Error("a launch has one report id, and no two launches the same")
	}
	if b.VMPL != 3 {
		t.Errorf("VMPL is %d, wanted 3", b.VMPL)
	}
	if a.ChipID != p.ChipID() || a.ReportedTCB != p.TCB().TCB(snp.Genoa) {
		t.Error("the report is of another chip or TCB than the platform's")
	}
	if product, ok := a.Product(); !ok || product != snp.Genoa {
		t.Errorf("the product is %q", product)
	}
	if _, _, err := first.Report([64]byte{}, 4); err == nil {
		t.Error("VMPL 4 does not exist, but got a report")
	}
	if _, err := first.Evidence(make([]byte, 65)); err == nil {
		t.Error("65 bytes of report data got evidence")
	}
}

func TestOpen(t *testing.T) {
	if testing.Short() {
		t.Skip("makes RSA keys")
	}
	dir := filepath.Join(t.TempDir(), "deep", "platform")
	p, err := signer.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := signer.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.ChipID() != p.ChipID() || !again.Root().ARK.Equal(p.Root().ARK) || !again.Root().Simulated {
		t.Error("opened again it is another platform")
	}
	if p.ChipID() == [64]byte{} {
		t.Error("the chip id is zero")
	}

	root, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := simtee.ParseRoot(root)
	if err != nil || !parsed.ARK.Equal(p.Root().ARK) || !parsed.ASK.Equal(p.Root().ASK) {
		t.Errorf("root.pem is not the platform's root: %v", err)
	}
	t.Run("modes", func(t *testing.T) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s is open to others: %s", path, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 1 {
			t.Errorf("making it left %v behind, %v", left, err)
		}
	})
	t.Run("the root file is read strictly", func(t *testing.T) { rootFile(t, root) })

	// From here on the directory is damaged, step by step.
	key := filepath.Join(dir, "vcek.key")
	for _, step := range []struct {
		name   string
		damage func() error
		want   string
	}{
		{"key open to others", func() error { return os.Chmod(key, 0o644) }, "chmod 600"},
		{"key of another certificate", func() error {
			return errors.Join(os.Chmod(key, 0o600), os.WriteFile(key, []byte("-----BEGIN PRIVATE KEY-----\n"), 0o600))
		}, "remove the directory"},
		{"no key", func() error { return os.Remove(key) }, "remove the directory"},
	} {
		if err := step.damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := signer.Open(dir); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v, wanted it to say %q", step.name, err, step.want)
		}
	}
}

func rootFile(t *testing.T, good []byte) {
	ark, rest := pem.Decode(good)
	ask, _ := pem.Decode(rest)
	arkPEM, askPEM := pem.EncodeToMemory(ark), pem.EncodeToMemory(ask)
	other := *ark
	other.Type = "PRIVATE KEY"
	for name, file := range map[string][]byte{
		"nothing":            nil,
		"one certificate":    arkPEM,
		"three":              bytes.Join([][]byte{arkPEM, askPEM, askPEM}, nil),
		"the wrong order":    append(bytes.Clone(askPEM), arkPEM...),
		"the ARK twice":      append(bytes.Clone(arkPEM), arkPEM...),
		"another block":      append(bytes.Clone(good), pem.EncodeToMemory(&other)...),
		"text after it":      append(bytes.Clone(good), "trust me"...),
		"too large":          append(bytes.Clone(good), make([]byte, 64<<10)...),
		"not a certificate":  []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"AMD's certificates": simtee.FormatRoot(snp.AMDRoots()[1]),
	} {
		if _, err := simtee.ParseRoot(file); err == nil {
			t.Errorf("%s: read as a root", name)
		}
	}
}

// dial returns the guest's end of a line at which proc answers, and what Serve returned once it has.
func dial(ctx context.Context, t *testing.T, proc *signer.Processor) (net.Conn, <-chan error) {
	guest, host := net.Pipe()
	t.Cleanup(func() { guest.Close() })
	done := make(chan error, 1)
	go func() { done <- proc.Serve(ctx, host) }()
	return guest, done
}

// ask sends bytes and reads a response.
func ask(t *testing.T, guest net.Conn, b []byte) simtee.Response {
	t.Helper()
	go guest.Write(b)
	r, err := simtee.ReadResponse(guest)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestServe(t *testing.T) {
	proc := testPlatform(t).Launch(signer.Launch{})
	guest, done := dial(t.Context(), t, proc)
	for i := range byte(3) {
		r := ask(t, guest, simtee.MarshalRequest(simtee.Request{ReportData: [64]byte{i}}))
		report, err := snp.ParseReport(r.Report)
		if err != nil || r.Status != simtee.StatusOK || report.ReportData != [64]byte{i} {
			t.Fatalf("answer %d: status %d, %v", i, r.Status, err)
		}
		if _, err := snp.ParseCertTable(r.CertTable); err != nil {
			t.Error(err)
		}
	}
	guest.Close()
	if err := <-done; err != nil {
		t.Errorf("the guest hung up, and Serve says %v", err)
	}
}

func TestServeHostileGuest(t *testing.T) {
	good := simtee.MarshalRequest(simtee.Request{ReportData: [64]byte{9}})
	bad := bytes.Clone(good)
	bad[4] = 99
	proc := testPlatform(t).Launch(signer.Launch{})

	t.Run("a bad request, then a good one", func(t *testing.T) {
		guest, _ := dial(t.Context(), t, proc)
		if r := ask(t, guest, bad); r.Status != simtee.StatusBadRequest {
			t.Errorf("status %d, wanted %d", r.Status, simtee.StatusBadRequest)
		}
		if r := ask(t, guest, good); r.Status != simtee.StatusOK {
			t.Errorf("status %d, wanted %d", r.Status, simtee.StatusOK)
		}
	})
	t.Run("garbage before a request", func(t *testing.T) {
		guest, _ := dial(t.Context(), t, proc)
		garbage := append([]byte("NNSNSTNST"), make([]byte, 1000)...)
		if r := ask(t, guest, append(garbage, good...)); r.Status != simtee.StatusOK {
			t.Errorf("status %d, wanted %d", r.Status, simtee.StatusOK)
		}
	})
	t.Run("a reset in the middle of a request", func(t *testing.T) {
		for cut := 1; cut < simtee.RequestSize; cut += 15 {
			guest, _ := dial(t.Context(), t, proc)
			go guest.Write(bytes.Join([][]byte{good[:cut], make([]byte, simtee.RequestSize), good}, nil))
			for {
				r, err := simtee.ReadResponse(guest)
				if err != nil {
					t.Fatal(err)
				}
				if r.Status == simtee.StatusOK && bytes.Equal(r.Report[0x50:0x90], good[12:]) {
					break
				}
			}
			guest.Close()
		}
	})
	t.Run("nothing but garbage", func(t *testing.T) {
		guest, done := dial(t.Context(), t, proc)
		_, err := io.Copy(guest, io.LimitReader(zeros{}, 1<<30))
		if err == nil {
			t.Error("a gigabyte of garbage was taken")
		}
		if err := <-done; err == nil {
			t.Error("Serve does not say why it hung up")
		}
	})
	t.Run("half a request at the end", func(t *testing.T) {
		guest, done := dial(t.Context(), t, proc)
		if _, err := guest.Write(good[:40]); err != nil {
			t.Fatal(err)
		}
		guest.Close()
		if err := <-done; err == nil {
			t.Error("Serve takes half a request for a clean end")
		}
	})
	t.Run("a guest that does not read its answer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		guest, done := dial(ctx, t, proc)
		if _, err := guest.Write(good); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve says %v, wanted the context's error", err)
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestServeLimit asks more often than a guest may; the clock is the test's own.
func TestServeLimit(t *testing.T) {
	p := testPlatform(t) // outside: making keys is no business of the test's clock
	synctest.Test(t, func(t *testing.T) {
		guest, _ := dial(t.Context(), t, p.Launch(signer.Launch{}))
		request := simtee.MarshalRequest(simtee.Request{})
		start := time.Now()
		const asked = 120
		for range asked {
			ask(t, guest, request)
		}
		if took := time.Since(start); took < 20*time.Second || took > 21*time.Second {
			t.Errorf("%d reports took %v, wanted 20 at once and the others at 5 a second", asked, took)
		}
		guest.Close()
	})
}

func FuzzServe(f *testing.F) {
	p := testPlatform(f)
	f.Add(simtee.MarshalRequest(simtee.Request{}))
	f.Add([]byte("NSTNSTQ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// A launch a run: its limit is not spent. The answers are bounded by the requests that fit into the input.
		conn := &script{in: bytes.NewReader(b[:min(len(b), 20*simtee.RequestSize)])}
		_ = p.Launch(signer.Launch{}).Serve(t.Context(), conn)
		for conn.out.Len() > 0 {
			if _, err := simtee.ReadResponse(&conn.out); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// script is a guest that says what is written down and listens to everything.
type script struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *script) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *script) Close() error                { return nil }
