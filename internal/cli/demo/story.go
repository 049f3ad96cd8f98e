// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/internal/cli/busybox"
	"github.com/nacre-project/nacre/internal/sandbox"
	"github.com/nacre-project/nacre/kbs"
)

// owner is the first chapter: a trustee, a secret, and what has to be true of a guest that gets it.
func (s *story) owner(ctx context.Context) error {
	if err := s.report.step("trustee-starts", "The owner starts a trustee", false, func(st *Step) error {
		return s.startTrustee(ctx, st)
	}); err != nil {
		return err
	}
	if err := s.writePods(ctx); err != nil {
		return err
	}
	if err := s.report.step("new-trustee-releases-nothing", "A new trustee releases nothing, to nobody", false, func(st *Step) error {
		return s.askNewTrustee(ctx, st)
	}); err != nil {
		return err
	}
	secret := []byte("correct-horse-" + strings.ToLower(rand.Text()[:8]))
	if err := os.WriteFile(filepath.Join(s.path("files"), "password.txt"), secret, 0o600); err != nil {
		return err
	}
	if err := s.report.step("owner-puts-secret", "The owner puts a database password into it, and another that nobody may have", false, func(*Step) error {
		if _, err := s.programs.run(ctx, secret, "secret", "put", password); err != nil {
			return err
		}
		_, err := s.programs.run(ctx, []byte("for administrators only"), "secret", "put", adminPassword)
		return err
	}); err != nil {
		return err
	}
	if err := s.makeImages(ctx); err != nil {
		return err
	}
	if err := s.report.step("owner-registers-reference-values", "… predicts what a guest of hers will measure, and registers it", false, func(st *Step) error {
		for _, name := range slices.Concat([]string{"pod", "probe"}, imagePods) {
			prediction, err := s.programs.quiet(ctx, nil, "measure", name+".yaml", "--json", "--simtee-dir", s.path("simtee"))
			if err != nil {
				return err
			}
			if _, err := s.programs.run(ctx, prediction, "refvalue", "register", "--add", "--from", "-"); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return s.report.step("owner-sets-release-policy", "… and says what is released to whom, from a template", false, func(*Step) error {
		args := []string{"policy", "set-release", "--template", "affirming", "--resource", password, "--allow-simulated",
			"--init-data", "pod.initdata.toml", "--init-data", "probe.initdata.toml"}
		for _, pod := range imagePods {
			args = append(args, "--resource", keyOf(pod), "--init-data", pod+".initdata.toml")
		}
		_, err := s.programs.run(ctx, nil, args...)
		return err
	})
}

func (s *story) startTrustee(ctx context.Context, st *Step) (err error) {
	if _, err := s.programs.quiet(ctx, nil, "simtee", "root", "--simtee-dir", s.path("simtee"), "--out", "simulated-root.pem"); err != nil {
		return err
	}
	if s.trusteeLog, err = os.Create(s.path("trustee.log")); err != nil {
		return err
	}
	if s.trustee, err = s.programs.startTrustee(ctx, s.trusteeLog,
		"--listen", "127.0.0.1:0", "--allow-simulated-root", "simulated-root.pem"); err != nil {
		return err
	}
	at, err := url.Parse(s.trustee.url)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(at.Host)
	if err != nil {
		return err
	}
	s.forPods = "https://" + net.JoinHostPort(busybox.Host, port)
	certPath := s.trusteeCert()
	keyPath := filepath.Join(s.path("config"), "nacre", "admin.key")
	if s.cert, err = os.ReadFile(certPath); err != nil {
		return err
	}
	s.programs.env = append(s.programs.env, "NACRE_TRUSTEE="+s.trustee.url, "NACRE_TRUSTEE_CERT="+certPath)
	keyText, err := os.ReadFile(keyPath)
	if err != nil {
		return err
	}
	key, err := kbs.ParseAdminKey(keyText)
	if err != nil {
		return err
	}
	s.admin, err = kbs.NewAdmin(kbs.ClientConfig{URL: s.trustee.url, PinnedCert: s.cert}, func() (string, error) {
		return key.Token(time.Now(), time.Minute, "nacre-trustee", "admin")
	})
	if err != nil {
		return err
	}
	if s.attacker, err = newAttacker(s.trustee.url, s.cert); err != nil {
		return err
	}
	st.Detail = "It made an admin key pair; the private half is the owner's, in " + keyPath
	return nil
}

func (s *story) trusteeCert() string {
	return filepath.Join(s.path("state"), "nacre", "trustee", "tls.crt")
}

// writePods writes the manifests, and with them the init-data that the owner authorises.
func (s *story) writePods(ctx context.Context) error {
	for name, manifest := range map[string]string{"pod": storyPod, "probe": probePod, "plain": plainPod} {
		if err := os.WriteFile(filepath.Join(s.path("files"), name+".yaml"), fmt.Appendf(nil, manifest, s.registry.Reference), 0o600); err != nil {
			return err
		}
	}
	for _, name := range []string{"pod", "probe"} {
		if _, err := s.programs.quiet(ctx, nil, "initdata", "create", "--trustee", s.forPods, "--trustee-cert", s.trusteeCert(),
			"--pod", name+".yaml", "--out", name+".initdata.toml"); err != nil {
			return err
		}
	}
	var err error
	if s.storyInitData, err = os.ReadFile(filepath.Join(s.path("files"), "pod.initdata.toml")); err != nil {
		return err
	}
	if s.probeInitData, err = os.ReadFile(filepath.Join(s.path("files"), "probe.initdata.toml")); err != nil {
		return err
	}
	s.probeManifest, err = os.ReadFile(filepath.Join(s.path("files"), "probe.yaml"))
	return err
}

// askNewTrustee presents genuine evidence to a trustee that nobody has told anything yet.
func (s *story) askNewTrustee(ctx context.Context, st *Step) error {
	client, err := kbs.NewClient(kbs.ClientConfig{URL: s.trustee.url, PinnedCert: s.cert})
	if err != nil {
		return err
	}
	defer client.Close()
	launch, err := sandbox.Predict(s.Image, 0, s.storyInitData)
	if err != nil {
		return err
	}
	processor := s.processor(launch)
	key, err := kbs.GenerateTEEKey(kbs.ECDHP256)
	if err != nil {
		return err
	}
	token, err := client.Attest(ctx, attest.SNP, key, processor.evidence, &kbs.InitData{Format: "toml", Body: string(s.storyInitData)})
	if err != nil {
		return fmt.Errorf("genuine evidence of a platform that the trustee was told to accept was refused: %w", err)
	}
	_, err = client.Resource(ctx, kbs.ResourceURI{Plugin: "resource", Path: strings.Split(password, "/")}, token, key)
	refused, ok := errors.AsType[*kbs.StatusError](err)
	if !ok {
		return fmt.Errorf("the new trustee did not refuse (%w)", err)
	}
	return s.refused(ctx, st, refusal{By: "trustee", Code: refused.Info.Code, Text: refused.Info.Detail, RequestID: refused.Info.RequestID})
}

// refused puts a refusal into the step, with its audit record.
func (s *story) refused(ctx context.Context, st *Step, r refusal) error {
	st.RefusedBy, st.Code = r.By, r.Code
	if r.By == "" {
		return errors.New("nobody refused")
	}
	st.Detail = strings.TrimSpace(st.Detail + "\n" + r.Text)
	if r.RequestID == "" {
		return nil
	}
	records, err := s.admin.Audit(ctx, 0, 1000)
	if err != nil {
		return err
	}
	for _, record := range records {
		if record.RequestID == r.RequestID && record.Decision == "refused" && record.Code == r.Code {
			st.AuditID = record.ID
		}
	}
	return nil
}

// pods is the second chapter: a pod that gets its secret, and one that cannot.
func (s *story) pods(ctx context.Context) error {
	if err := s.report.step("pod-gets-its-secret", "The pod runs; it asks for the password, and only now its guest attests", false, func(st *Step) error {
		output, err := s.programs.run(ctx, nil, "run", "pod.yaml", "--simtee-dir", s.path("simtee"))
		if err != nil {
			return err
		}
		want, err := os.ReadFile(filepath.Join(s.path("files"), "password.txt"))
		if err != nil {
			return err
		}
		if !bytes.Contains(output, append([]byte("the database password is: "), want...)) {
			return errors.New("the pod did not print the password that the owner put in")
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.encryptedPod(ctx); err != nil {
		return err
	}
	return s.report.step("pod-without-init-data", "A pod without init-data runs too, and no secret can reach it", false, func(st *Step) error {
		output, err := s.programs.run(ctx, nil, "run", "plain.yaml", "--simtee-dir", s.path("simtee"))
		if err != nil {
			return err
		}
		i := bytes.Index(output, []byte("HTTP/1."))
		if i < 0 || !bytes.Contains(output[:i], []byte("and I run")) {
			return errors.New("the pod did not run, or its data hub did not answer")
		}
		a, err := parseAnswer(unprefixed(output[i:]))
		if err != nil {
			return err
		}
		r, err := a.refusal()
		if err != nil {
			return err
		}
		return s.refused(ctx, st, r)
	})
}

// unprefixed takes the container's name, which `nacre run` may print before each line, off the lines after the first.
func unprefixed(output []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(output) {
		if _, rest, found := bytes.Cut(line, []byte("| ")); found {
			line = rest
		}
		b.Write(line)
	}
	return b.Bytes()
}

// trail is the last chapter: what the trustee remembers.
func (s *story) trail(ctx context.Context) error {
	return s.report.step("audit-trail", "The audit trail: who, on what evidence, by which policy, released or refused, why", false, func(st *Step) error {
		if _, err := s.programs.run(ctx, nil, "audit"); err != nil {
			return err
		}
		_, err := s.programs.run(ctx, nil, "audit", "verify")
		return err
	})
}
