// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/policygen"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
	"github.com/nacre-project/nacre/kbs"
)

func newInitData(o *owner) *cobra.Command {
	group := &cobra.Command{
		Use:   "initdata",
		Short: "Make and read init-data: what the owner tells a guest through the host",
		Long: `Init-data says where the guest finds its trustee, by which certificate it knows it, and what the host may ask of it. It travels in an annotation of the pod and
is bound into the guest's launch by its digest, which the owner registers as a reference value and pins in the release policy.`,
	}
	group.AddCommand(newInitDataCreate(o), newInitDataShow(), newInitDataDigest())
	return group
}

// guestConfig is what of init-data the flags decide.
type guestConfig struct {
	trustee    string
	cert       []byte // PEM
	algorithm  string
	policyFile string
	podFile    string
	policy     policygen.Pod
	images     imageFlags
	sealing    []string // key ids: resources that hold the keys of whom sealed secrets are taken
	exposed    []string // values of the pod's Secrets that are not sealed
}

func newInitDataCreate(o *owner) *cobra.Command {
	var (
		g   guestConfig
		out string
	)
	c := &cobra.Command{
		Use:   "create --trustee URL --trustee-cert FILE [--pod pod.yaml] [--out initdata.toml]",
		Short: "Make init-data, and write it into a pod's annotation",
		Long: `create writes init-data whose agent policy allows exactly the containers of --pod (image, arguments, environment, user and mounts), and the images of
--allow-image with whatever arguments; or takes a policy of your own. With --pod the manifest gets the annotation; its comments stay.`,
		Example: `  nacre initdata create --trustee https://10.0.2.2:8080 --trustee-cert trustee.pem --pod pod.yaml --out initdata.toml
  nacre refvalue register init_data $(nacre initdata digest initdata.toml)`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := o.resolve()
			if err != nil {
				return err
			}
			g.trustee = config.Trustee
			if g.cert, err = config.pinned(); err != nil {
				return err
			}
			raw, err := g.build()
			if err != nil {
				return err
			}
			if g.podFile != "" {
				if err := annotateFile(g.podFile, raw); err != nil {
					return err
				}
				fmt.Fprintf(c.ErrOrStderr(), "%s: annotated\n", g.podFile)
			}
			if len(g.exposed) > 0 {
				fmt.Fprintln(c.ErrOrStderr(), exposedNote(g.exposed))
			}
			digest, err := initdata.Digest(raw)
			if err != nil {
				return err
			}
			if out != "" {
				if err := os.WriteFile(out, raw, 0o644); err != nil {
					return fmt.Errorf("writing the init-data: %w", err)
				}
				fmt.Fprintf(c.ErrOrStderr(), "%s: written\n", out)
			} else if g.podFile == "" {
				if _, err := c.OutOrStdout().Write(raw); err != nil {
					return err
				}
			}
			fmt.Fprintf(c.ErrOrStderr(), "digest %s:%x; authorise it with: nacre refvalue register init_data %s\n", g.algorithm, digest, hostData(digest))
			return nil
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&g.podFile, "pod", "", "allow the containers of this pod, and write the annotation into its manifest")
	f.StringArrayVar(&g.policy.Images, "allow-image", nil, "allow containers of this image, whatever their arguments (repeatable)")
	f.BoolVar(&g.policy.AllowExec, "allow-exec", false, "let the host start programs in the containers, and so read all that is in them")
	f.BoolVar(&g.policy.AllowLogs, "allow-logs", true, "let the host read what the containers print")
	f.StringVar(&g.policyFile, "policy", "", "an agent policy of your own, in Rego: package agent_policy")
	g.images.flags(f)
	f.StringArrayVar(&g.sealing, "sealing-key", nil,
		"take sealed secrets that this key signed: kbs:///repository/type/tag, the resource with its public half (repeatable)")
	f.StringVar(&g.algorithm, "algorithm", initdata.SHA256, "digest algorithm: sha256, sha384 or sha512")
	f.StringVar(&out, "out", "", "write the init-data to this file (else, without --pod, to standard output)")
	return c
}

// build makes the init-data text.
func (g *guestConfig) build() ([]byte, error) {
	if u, err := url.Parse(g.trustee); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the trustee's URL %q is not of the form https://host:port; name it with --trustee", g.trustee)
	} else if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return nil, fmt.Errorf("in a guest, %s is the guest itself; name the trustee as the guest sees it with --trustee "+
			"(with `nacre run`, this machine's loopback is 10.0.2.2)", u.Host)
	}
	if len(g.cert) == 0 {
		return nil, errors.New("a guest has no clock that it could trust, so it knows its trustee by certificate: name it with --trustee-cert")
	}
	policy, err := g.agentPolicy()
	if err != nil {
		return nil, err
	}
	agent, err := toml.Marshal(agentConfig{TokenConfigs: map[string]kbsConfig{"kbs": {g.trustee, string(g.cert)}}})
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", initdata.AgentConfig, err)
	}
	for _, kid := range g.sealing {
		if _, err := kbs.ParseResourceURI(kid); err != nil {
			return nil, fmt.Errorf("--sealing-key: %w", err)
		}
	}
	hub := dataConfig{KBC: kbcConfig{"cc_kbc", g.trustee, string(g.cert)}}
	if len(g.sealing) > 0 {
		hub.Sealed = &sealedConfig{g.sealing}
	}
	if hub.Image, err = g.images.config(); err != nil {
		return nil, err
	}
	data, err := toml.Marshal(hub)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", initdata.DataConfig, err)
	}
	return initdata.Format(&initdata.Data{Version: initdata.Version, Algorithm: g.algorithm, Files: map[string]string{
		initdata.AgentConfig: string(agent), initdata.DataConfig: string(data), initdata.AgentPolicy: policy,
	}})
}

// The configuration of the guest's attestation agent and data hub, by upstream's keys.
type (
	agentConfig struct {
		TokenConfigs map[string]kbsConfig `toml:"token_configs"`
	}
	kbsConfig struct {
		URL  string `toml:"url"`
		Cert string `toml:"cert,multiline"`
	}
	dataConfig struct {
		KBC    kbcConfig     `toml:"kbc"`
		Image  *imageConfig  `toml:"image,omitempty"`
		Sealed *sealedConfig `toml:"sealed_secrets,omitempty"` // ours
	}
	sealedConfig struct {
		Keys []string `toml:"keys"`
	}
	kbcConfig struct {
		Name string `toml:"name"`
		URL  string `toml:"url"`
		Cert string `toml:"kbs_cert,multiline"`
	}
)

func (g *guestConfig) agentPolicy() (string, error) {
	if g.policyFile != "" {
		if len(g.policy.Images) > 0 || g.policy.AllowExec {
			return "", errors.New("--policy excludes --allow-image and --allow-exec: what is allowed stands in the policy")
		}
		text, err := os.ReadFile(g.policyFile)
		if err != nil {
			return "", fmt.Errorf("reading the agent policy: %w", err)
		}
		return string(text), nil
	}
	if g.podFile != "" {
		f, err := os.Open(g.podFile)
		if err != nil {
			return "", fmt.Errorf("reading the pod: %w", err)
		}
		defer f.Close()
		p, err := readPod("-", f)
		if err != nil {
			return "", fmt.Errorf("%s: %w", g.podFile, err)
		}
		if g.policy.Requests, err = pod.CreateRequests(p); err != nil {
			return "", err
		}
		if g.policy.Files, err = pod.CopyRequests(p); err != nil {
			return "", err
		}
		g.exposed = p.Exposed()
	}
	if len(g.policy.Requests)+len(g.policy.Images) == 0 {
		return "", errors.New("no container would be allowed: name a pod with --pod, images with --allow-image, or a policy with --policy")
	}
	return g.policy.Rego()
}

func newInitDataShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show {pod.yaml | initdata.toml}",
		Short: "Print the init-data in a pod's annotation or a file, as it is bound",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := readInitData(args[0])
			if err != nil {
				return err
			}
			_, err = io.Copy(c.OutOrStdout(), bytes.NewReader(raw))
			return err
		},
	}
}

func newInitDataDigest() *cobra.Command {
	return &cobra.Command{
		Use:   "digest {pod.yaml | initdata.toml}",
		Short: "Print the digest of init-data, in hex, as SEV-SNP reports it",
		Long: `digest prints the digest of the init-data in a pod's annotation or a file, made with the algorithm that it names and cut or zero-padded to the 32 bytes that
SEV-SNP binds and reports: the value to register and to pin.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := readInitData(args[0])
			if err != nil {
				return err
			}
			digest, err := initdata.Digest(raw)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), hostData(digest))
			return nil
		},
	}
}

// readInitData reads an init-data text, or the one in a pod's annotation.
func readInitData(path string) ([]byte, error) {
	s, err := readSubject(path)
	if err != nil {
		return nil, err
	}
	if s.initData == nil {
		return nil, fmt.Errorf("%s: the pod has no annotation %s; write it with `nacre initdata create --pod`", path, initdata.Annotation)
	}
	return s.initData, nil
}

// annotateFile writes init-data into the annotation of the manifest at path.
func annotateFile(path string, raw []byte) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the pod: %w", err)
	}
	value, err := initdata.EncodeAnnotation(raw)
	if err != nil {
		return err
	}
	annotated, err := annotate(text, initdata.Annotation, value)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := pod.Parse(annotated); err != nil {
		return fmt.Errorf("%s: the annotation cannot be written into it: %w", path, err)
	}
	return rewrite(path, annotated)
}

// rewrite puts a manifest in the place of the one at path, with its mode.
func rewrite(path string, text []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("writing the pod: %w", err)
	}
	if err := replaceFile(path, text, info.Mode().Perm()); err != nil {
		return fmt.Errorf("writing the pod: %w", err)
	}
	return nil
}

// replaceFile writes a file beside path and renames it, so that path is never half written.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	temp := path + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, strings.NewReader(string(content)))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}
