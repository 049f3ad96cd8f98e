// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
	"github.com/nacre-project/nacre/sealed"
	"github.com/nacre-project/nacre/secret"
)

// opened are sealed secrets and what they stand for; others are refused.
type opened map[string]string

const (
	unsealable = "sealed.opens.a.password"
	unopened   = "sealed.stays.closed.x"
	hidden     = "a password that no host may see"
)

func (o opened) Unseal(_ context.Context, text string) (secret.Bytes, error) {
	value, ok := o[text]
	if !ok {
		return secret.Bytes{}, errors.New("unsealing a secret (policy_denied): no")
	}
	return secret.New([]byte(value)), nil
}

// resolving is an agent that opens some secrets, and a container's description with a bundle for it.
func resolving(t *testing.T, o opened, env ...string) (*Agent, string, *specs.Spec) {
	t.Helper()
	a := testAgent(t)
	a.Unsealer = o
	bundle := filepath.Join(a.Dir, "c1")
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	return a, bundle, &specs.Spec{Process: &specs.Process{Env: env}}
}

func TestEnvironmentIsResolved(t *testing.T) {
	a, bundle, s := resolving(t, opened{unsealable: "a=b ü\n"}, "A=plain", "B="+unsealable, "C=not sealed.", "D="+unsealable, "E=")
	if err := a.resolve(t.Context(), bundle, s); err != nil {
		t.Fatal(err)
	}
	want := []string{"A=plain", "B=a=b ü\n", "C=not sealed.", "D=a=b ü\n", "E="}
	if strings.Join(s.Process.Env, "\x00") != strings.Join(want, "\x00") {
		t.Errorf("%q", s.Process.Env)
	}
}

// A sealed value that cannot be replaced stops the container: upstream's agent starts it with the sealed text.
func TestAttackSealedEnvironment(t *testing.T) {
	for name, tt := range map[string]struct {
		value, text, want string
	}{
		"refused":         {text: unopened, want: "policy_denied"},
		"the prefix only": {text: sealed.Prefix, want: "policy_denied"},
		"no UTF-8":        {hidden + "\xff", unsealable, codeValueNotText},
		"a zero byte":     {hidden + "\x00x", unsealable, codeValueNotText},
		"too large":       {strings.Repeat(hidden, maxEnv/len(hidden)+1), unsealable, codeValueTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			a, bundle, s := resolving(t, opened{unsealable: tt.value}, "DB_PASSWORD="+tt.text)
			err := a.resolve(t.Context(), bundle, s)
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), tt.want) ||
				!strings.Contains(err.Error(), `environment variable "DB_PASSWORD"`) || strings.Contains(err.Error(), hidden) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("nothing unseals", func(t *testing.T) {
		a, bundle, s := resolving(t, nil, "A="+unsealable)
		a.Unsealer = nil
		if err := a.resolve(t.Context(), bundle, s); err == nil || !strings.Contains(err.Error(), codeNoUnsealer) {
			t.Errorf("%v", err)
		}
	})
	t.Run("many", func(t *testing.T) {
		a, bundle, s := resolving(t, opened{unsealable: "x"})
		for range maxSealed + 1 {
			s.Process.Env = append(s.Process.Env, "A="+unsealable)
		}
		if err := a.resolve(t.Context(), bundle, s); err == nil || !strings.Contains(err.Error(), codeTooManySecrets) {
			t.Errorf("%v", err)
		}
	})
}

func mountOf(a *Agent, volume string) specs.Mount {
	return specs.Mount{Type: "bind", Destination: "/etc/secret", Source: filepath.Join(a.Dir, copiedDir, volume)}
}

func TestFilesAreResolved(t *testing.T) {
	large := strings.Repeat("x", 200<<10) + "\x00\xff" // files may hold anything
	a, bundle, s := resolving(t, opened{unsealable: large})
	copyAll(t, a, secretVolume(a, "v", map[string]string{"plain": "text", "password": unsealable, "short": "seal"})...)
	copyAll(t, a, file(a, "single", unsealable))
	s.Mounts = []specs.Mount{mountOf(a, "v"), mountOf(a, "single"), {Type: "tmpfs", Source: "tmpfs"}, mountOf(a, "v/..data/password")}
	if err := a.resolve(t.Context(), bundle, s); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		s.Mounts[0].Source + "/plain": "text", s.Mounts[0].Source + "/password": large, s.Mounts[0].Source + "/short": "seal",
		s.Mounts[0].Source + "/..data/password": large, s.Mounts[1].Source: large, s.Mounts[3].Source: large,
	} {
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %.20q, %v", path, got, err)
		}
	}
	info, err := os.Stat(s.Mounts[0].Source + "/password")
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, m := range []specs.Mount{s.Mounts[0], s.Mounts[1]} {
		if !strings.HasPrefix(m.Source, bundle+"/") {
			t.Errorf("%s is not the container's own", m.Source)
		}
	}
	if s.Mounts[2].Source != "tmpfs" {
		t.Errorf("%+v", s.Mounts[2])
	}
	// What the host has access to stays sealed.
	if got, err := os.ReadFile(filepath.Join(a.Dir, copiedDir, "v/password")); err != nil || string(got) != unsealable {
		t.Errorf("%.20q, %v", got, err)
	}
	// And what it copies later is no longer seen.
	copyAll(t, a, file(a, "v/..2026_01_02/plain", "other"))
	if got, err := os.ReadFile(s.Mounts[0].Source + "/plain"); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAttackSealedFiles(t *testing.T) {
	for name, attack := range map[string]func(t *testing.T, a *Agent) string{
		"refused": func(t *testing.T, a *Agent) string {
			copyAll(t, a, secretVolume(a, "v", map[string]string{"password": unopened, "good": unsealable})...)
			return "policy_denied"
		},
		"a line break behind": func(t *testing.T, a *Agent) string {
			copyAll(t, a, file(a, "v/password", unsealable+"\n"))
			return "policy_denied"
		},
		"huge": func(t *testing.T, a *Agent) string {
			copyAll(t, a, file(a, "v/password", unsealable+strings.Repeat("x", 2*sealed.MaxText)))
			return "policy_denied"
		},
		"no such volume": func(t *testing.T, a *Agent) string {
			copyAll(t, a, directory(a, "w"))
			return "no such file"
		},
		"nothing was copied": func(*testing.T, *Agent) string { return "no such file" },
		"a link out of the volume": func(t *testing.T, a *Agent) string {
			copyAll(t, a, directory(a, "w"))
			if err := os.Symlink("/etc", filepath.Join(a.Dir, copiedDir, "v")); err != nil {
				t.Fatal(err)
			}
			return "escapes"
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, bundle, s := resolving(t, opened{unsealable: hidden})
			want := attack(t, a)
			s.Mounts = []specs.Mount{mountOf(a, "v")}
			err := a.resolve(t.Context(), bundle, s)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/etc/secret") ||
				strings.Contains(err.Error(), hidden) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A link in a volume to a file elsewhere in the guest: the agent neither reads nor writes through it.
func TestAttackLinkOutOfAVolume(t *testing.T) {
	a, bundle, s := resolving(t, opened{unsealable: hidden})
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(unsealable), 0o600); err != nil {
		t.Fatal(err)
	}
	copyAll(t, a, directory(a, "v"))
	if err := os.Symlink(outside, filepath.Join(a.Dir, copiedDir, "v/password")); err != nil {
		t.Fatal(err)
	}
	s.Mounts = []specs.Mount{mountOf(a, "v")}
	if err := a.resolve(t.Context(), bundle, s); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != unsealable {
		t.Errorf("%q, %v", got, err)
	}
}

// What the host has copied is mounted for reading, whatever it asks for.
func TestAttackWritableSecret(t *testing.T) {
	a := testAgent(t)
	for _, options := range [][]string{{"rbind", "rw"}, {"rbind"}, {"rbind", "ro"}, {"rw", "ro"}} {
		m, err := a.mount("c1", &agent.Mount{
			Destination: "/etc/secret", Type: "bind", Source: filepath.Join(a.Dir, copiedDir, "v"), Options: options,
		})
		text := strings.Join(m.Options, ",")
		if err != nil || strings.Count(text+",", ",ro,") != 1 || strings.Contains(text+",", ",rw,") {
			t.Errorf("%q: %q, %v", options, text, err)
		}
	}
}

// A whole container: what it sees, and that neither host nor log sees it; with a secret that stays sealed there is none.
func TestSealedContainer(t *testing.T) {
	var log bytes.Buffer
	// The policy decides on what the owner wrote, which is the sealed text.
	rego := allow("CreateSandboxRequest", "StartContainerRequest", "WaitProcessRequest", "ReadStreamRequest",
		"CopyFileRequest", "RemoveContainerRequest") +
		"CreateContainerRequest if startswith(input.OCI.Process.Env[0], \"DB_PASSWORD=sealed.\")\n"
	g := startGuest(t, rego, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Unsealer = opened{unsealable: hidden}
	})
	g.sandbox(t)
	for _, r := range secretVolume(g.agent, "v", map[string]string{"password": unsealable}) {
		if _, err := g.CopyFile(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	request := func(id, value string) *agent.CreateContainerRequest {
		r := g.request(id, "secrets", "DB_PASSWORD", "/etc/secret/password")
		r.OCI.Process.Env = []string{"DB_PASSWORD=" + value}
		r.OCI.Mounts = []*agent.Mount{{
			Destination: "/etc/secret", Type: "bind", Source: filepath.Join(g.agent.Dir, copiedDir, "v"), Options: []string{"rbind", "rw"},
		}}
		return r
	}
	_, err := g.CreateContainer(t.Context(), request("c0", unopened))
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `"DB_PASSWORD": unsealing a secret (policy_denied): no`) {
		t.Errorf("%v", err)
	}
	if left, err := filepath.Glob(filepath.Join(g.agent.Dir, "c0", "*")); err != nil || len(left) != 0 || len(g.agent.containers) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if _, err := g.CreateContainer(t.Context(), request("c1", unsealable)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.StartContainer(t.Context(), &agent.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	out := all(t, g.ReadStdout, "c1", "c1")
	if want := "env " + hidden + "\nfile " + hidden + "\nwrite true\n"; g.wait(t, "c1", "c1") != 0 || out != want {
		t.Errorf("printed %q, want %q", out, want)
	}
	if text, err := os.ReadFile(filepath.Join(g.agent.Dir, "c1", "config.json")); err == nil {
		t.Errorf("the description is left: %d bytes", len(text))
	}
	if _, err := g.RemoveContainer(t.Context(), &agent.RemoveContainerRequest{ContainerId: "c1"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(g.agent.Dir, "c1")); err == nil {
		t.Error("the bundle is left")
	}
	if strings.Contains(log.String(), hidden) {
		t.Errorf("the log shows the secret:\n%s", log.String())
	}
}
