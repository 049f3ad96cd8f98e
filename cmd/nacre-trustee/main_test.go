// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

// The tests run the program itself: this test binary is the program when the variable is set.
const asProgram = "NACRE_TEST_AS_TRUSTEE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	testscript.Main(m, map[string]func(){"nacre-trustee": main})
}

// process is a running trustee.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	home  string
	start listening
	log   *lockedBuilder
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func command(home string, args ...string) *exec.Cmd {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "HOME="+home, "XDG_CONFIG_HOME=", "XDG_STATE_HOME=")
	return cmd
}

func launch(t *testing.T, home string, args ...string) *process {
	t.Helper()
	p := &process{t: t, home: home, log: &lockedBuilder{},
		cmd: command(home, append([]string{"--json", "--listen", "127.0.0.1:0"}, args...)...)}
	p.cmd.Stderr = p.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &p.start) != nil || p.start.Event != "listening" {
		t.Fatalf("no listening line: %q, %v\n%s", line, err, p.log)
	}
	return p
}

// end stops the process by a signal and waits for it.
func (p *process) end(signal os.Signal) error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	return p.cmd.Wait()
}

func (p *process) client() kbs.ClientConfig {
	p.t.Helper()
	cert, err := os.ReadFile(p.start.Certificate)
	if err != nil {
		p.t.Fatal(err)
	}
	return kbs.ClientConfig{URL: p.start.URL, PinnedCert: cert, Attempts: 1}
}

func (p *process) admin() *kbs.Admin {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.home, ".config/nacre/admin.key"))
	if err != nil {
		p.t.Fatal(err)
	}
	key, err := kbs.ParseAdminKey(text)
	if err != nil {
		p.t.Fatal(err)
	}
	a, err := kbs.NewAdmin(p.client(), func() (string, error) {
		return key.Token(time.Now(), time.Minute, "nacre-trustee", "admin")
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(a.Close)
	return a
}

func TestFirstAndSecondStart(t *testing.T) {
	home := t.TempDir()
	p := launch(t, home)
	if p.start.AdminKey == "" || len(p.start.Administrators) != 1 || len(p.start.Trusts) != 3 ||
		p.start.Fingerprint == "" {
		t.Errorf("%+v", p.start)
	}
	if err := p.admin().PutResource(t.Context(), "a/b/c", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	first := p.start
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v\n%s", err, p.log)
	}
	p = launch(t, home)
	if p.start.AdminKey != "" || p.start.Fingerprint != first.Fingerprint ||
		p.start.Administrators[0] != first.Administrators[0] {
		t.Errorf("second start: %+v", p.start)
	}
	if list, err := p.admin().Resources(t.Context(), ""); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if strings.Contains(p.log.String(), "kept") {
		t.Error("the log contains the secret")
	}
}

func TestSecondInstanceIsRefused(t *testing.T) {
	home := t.TempDir()
	launch(t, home)
	out, err := command(home, "--listen", "127.0.0.1:0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another process") {
		t.Errorf("%v: %s", err, out)
	}
}

// Connections that nothing is said on wait for each other, not for file descriptors and memory to end.
func TestAttackManyConnections(t *testing.T) {
	p := launch(t, t.TempDir(), "--max-connections", "1", "--unsafe-http")
	ask := func() (net.Conn, *bufio.Reader) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(p.start.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: trustee\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return conn, bufio.NewReader(conn)
	}
	answered := func(r *bufio.Reader) error {
		response, err := http.ReadResponse(r, nil)
		if err == nil {
			response.Body.Close()
		}
		return err
	}
	first, answers := ask()
	if err := answered(answers); err != nil {
		t.Fatal(err)
	}
	second, answers := ask()
	if err := second.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := answered(answers); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a second connection beside the first: %v", err)
	}
	if err := errors.Join(first.Close(), second.SetReadDeadline(time.Time{})); err != nil {
		t.Fatal(err)
	}
	if err := answered(bufio.NewReader(second)); err != nil {
		t.Errorf("a second connection after the first: %v", err)
	}
}

func TestUnsafeSettingsAreWarnedOf(t *testing.T) {
	home := t.TempDir()
	machine, err := signer.Open(filepath.Join(home, "machine"))
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(home, "root.pem")
	if err := os.WriteFile(root, simtee.FormatRoot(machine.Root()), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, home, "--allow-simulated-root", root, "--unsafe-allow-debug", "--unsafe-http")
	if !strings.HasPrefix(p.start.URL, "http://") || p.start.Certificate != "" || len(p.start.Trusts) != 4 {
		t.Errorf("%+v", p.start)
	}
	response, err := http.Get(p.start.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(text), "\nnacre_simulated_roots 1\n") {
		t.Errorf("metrics: %v", err)
	}
	for _, want := range []string{"simulated root", "debuggable", "plain HTTP"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("no warning of %s in\n%s", want, p.log)
		}
	}
}

func TestUnsafeKeyBesideData(t *testing.T) {
	home := t.TempDir()
	data := filepath.Join(home, "data")
	out, err := command(home, "--listen", "127.0.0.1:0", "--data", data, "--key-file",
		filepath.Join(data, "key")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--unsafe-key-beside-data") {
		t.Errorf("%v: %s", err, out)
	}
	launch(t, home, "--data", data, "--key-file", filepath.Join(data, "key"), "--unsafe-key-beside-data")
}

func TestGracefulEnd(t *testing.T) {
	p := launch(t, t.TempDir())
	cert, err := os.ReadFile(p.start.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.start.URL, "https://"), &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"version":"0.4.0","tee":"snp","extra-params":{}}`
	// The request is under way when the signal comes: the trustee has asked for its body and has half of it.
	fmt.Fprintf(conn, "POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body))
	reader := bufio.NewReader(conn)
	if goOn, err := http.ReadResponse(reader, nil); err != nil || goOn.StatusCode != http.StatusContinue {
		t.Fatalf("the trustee did not ask for the body: %v", err)
	}
	if _, err := conn.Write([]byte(body[:10])); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(body[10:])); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(reader, nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("the request under way: %v", err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, p.log)
	}
}

// Nothing that was acknowledged is lost when the process is killed, and the audit chain has every record up to the
// kill.
func TestKilledProcessLosesNothing(t *testing.T) {
	home := t.TempDir()
	machine, err := signer.Open(filepath.Join(home, "machine"))
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(home, "root.pem")
	if err := os.WriteFile(root, simtee.FormatRoot(machine.Root()), 0o600); err != nil {
		t.Fatal(err)
	}
	type acknowledged struct {
		mu     sync.Mutex
		paths  []string
		tokens int
	}
	var all acknowledged
	for round := range 3 {
		p := launch(t, home, "--allow-simulated-root", root)
		a := p.admin()
		client, err := kbs.NewClient(p.client())
		if err != nil {
			t.Fatal(err)
		}
		var done atomic.Int64
		enough := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		progress := func() {
			if done.Add(1) == 60 {
				close(enough)
			}
		}
		for w := range 6 {
			wait.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					path := fmt.Sprintf("r%d/w%d/i%d", round, w, i)
					if a.PutResource(ctx, path, []byte(path)) != nil {
						return
					}
					all.mu.Lock()
					all.paths = append(all.paths, path)
					all.mu.Unlock()
					progress()
				}
			})
		}
		for range 2 {
			wait.Go(func() {
				key, err := kbs.GenerateTEEKey(kbs.ECDHP256)
				if err != nil {
					t.Error(err)
					return
				}
				processor := machine.Launch(signer.Launch{})
				for ctx.Err() == nil {
					_, err := client.Attest(ctx, attest.SNP, key,
						func(_ context.Context, d []byte) (json.RawMessage, error) {
							return processor.Evidence(d)
						}, nil)
					if err != nil {
						return
					}
					all.mu.Lock()
					all.tokens++
					all.mu.Unlock()
					progress()
				}
			})
		}
		<-enough
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait()
		cancel()
		wait.Wait()
		client.Close()
	}
	s, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(home, ".local/state/nacre/trustee"),
		KeyFile: filepath.Join(home, ".config/nacre/trustee.key")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	records, _, err := audit.Verify(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if records < int64(len(all.paths)+all.tokens) {
		t.Errorf("%d audit records, acknowledged were %d changes and %d tokens", records, len(all.paths), all.tokens)
	}
	for _, path := range all.paths {
		if v, err := s.Get(t.Context(), "repository", path); err != nil || string(v) != path {
			t.Errorf("%s was acknowledged and is lost: %v", path, err)
		}
	}
}

func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trustee.toml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := func(name string) string { return map[string]string{"HOME": "/home/o"}[name] }
	get := func(args ...string) (*settings, error) { return load(args, env, io.Discard) }

	s, err := get()
	if err != nil || s.Listen != "127.0.0.1:8080" || s.Data != "/home/o/.local/state/nacre/trustee" ||
		s.KeyFile != "/home/o/.config/nacre/trustee.key" ||
		s.UnsafeHTTP || s.UnsafeAllowDebug || s.UnsafeKeyBesideData || len(s.AllowSimulatedRoot) != 0 {
		t.Errorf("defaults: %+v, %v", s, err)
	}
	write("listen = \"127.0.0.1:1\"\ntls-name = [\"a\", \"b\"]\ntoken-lifetime = \"7m\"\nunsafe-allow-debug = true\n")
	s, err = get("serve", "--config", file)
	if err != nil || s.Listen != "127.0.0.1:1" || fmt.Sprint(s.TLSName) != "[a b]" ||
		time.Duration(s.TokenLifetime) != 7*time.Minute || !s.UnsafeAllowDebug {
		t.Errorf("file: %+v, %v", s, err)
	}
	s, err = get("--config", file, "--listen", "127.0.0.1:2", "--tls-name", "c", "--unsafe-allow-debug=false",
		"--token-lifetime", "8m")
	if err != nil || s.Listen != "127.0.0.1:2" || fmt.Sprint(s.TLSName) != "[c]" ||
		time.Duration(s.TokenLifetime) != 8*time.Minute || s.UnsafeAllowDebug {
		t.Errorf("flags over file: %+v, %v", s, err)
	}
	write("lisen = \"x\"\n")
	if _, err := get("--config", file); err == nil || !strings.Contains(err.Error(), "lisen") {
		t.Errorf("a setting that does not exist: %v", err)
	}
	for name, args := range map[string][]string{
		"an argument": {"start"}, "half a pair": {"--tls-cert", "x"}, "no file": {"--config", "/none"},
		"TLS and not": {"--unsafe-http", "--tls-cert", "x", "--tls-key", "y"},
		"no time":     {"--token-lifetime", "0s"}, "long sessions": {"--session-lifetime", "2h"},
		"small bodies": {"--body-limit", "1"}, "none at a time": {"--max-attests", "0"},
		"no connections": {"--max-connections", "0"},
	} {
		if _, err := get(args...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHumanReport(t *testing.T) {
	home := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	out, wrote := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"--listen", "127.0.0.1:0"},
			func(name string) string { return map[string]string{"HOME": home}[name] }, wrote, io.Discard)
		wrote.Close()
		ended <- err
	}()
	scanner := bufio.NewScanner(out)
	var text []string
	for scanner.Scan() {
		text = append(text, scanner.Text())
		if strings.HasPrefix(scanner.Text(), "  next") {
			cancel()
		}
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, want := range []string{"listens on https://127.0.0.1:", "tls.crt", "trustee.key",
		"admin.key: it is the owner's", "AMD ARK-Genoa", "nacre secret put"} {
		if !strings.Contains(strings.Join(text, "\n"), want) {
			t.Errorf("no %q in\n%s", want, strings.Join(text, "\n"))
		}
	}
}
