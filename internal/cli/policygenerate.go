// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/internal/policygen"
	"github.com/nacre-project/nacre/internal/sandbox/pod"
)

// generation is one run of `nacre policy generate`.
type generation struct {
	config   guestConfig
	registry registryAccess
	allow    []string
	pin      bool
	offline  bool
	rego     bool
	images   map[string]*ocispec.ImageConfig // nil: not read
}

func newPolicyGenerate(o *owner) *cobra.Command {
	g := &generation{images: map[string]*ocispec.ImageConfig{}}
	c := &cobra.Command{
		Use:   "generate FILE…",
		Short: "Write the policy of each pod template into its annotation, as init-data",
		Long: `generate reads Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Lists, with the ConfigMaps and Secrets beside them, and writes for
each pod template the init-data whose agent policy allows its containers and nothing else: image, arguments, environment, user, capabilities and mounts,
and the commands of probes and hooks. What the host may do besides is said by --allow; comments of the manifest stay.

Images are named by digest. Their configurations are read from the registry once, and kept, so that the policy also fits hosts that fill in what the
manifest leaves to the image; with --offline it fits hosts that leave it to the guest.`,
		Example: `  nacre policy generate --trustee https://10.0.2.2:8080 --trustee-cert trustee.pem --pin --allow logs web.yaml
  nacre policy generate --rego --offline --allow exec='pg_dump **' db.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			if !g.rego {
				config, err := o.resolve()
				if err != nil {
					return err
				}
				g.config.trustee = config.Trustee
				if g.config.cert, err = config.pinned(); err != nil {
					return err
				}
			}
			return g.run(c.Context(), files, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringArrayVar(&g.allow, "allow", nil,
		`what the host may do besides: logs, copy, port-forward, exec, or exec='WORD WORD…' with * in words and ** for any rest (repeatable)`)
	f.BoolVar(&g.pin, "pin", false, "resolve tags of images at the registry, and write their digests into the manifest")
	f.BoolVar(&g.offline, "offline", false, "read no image's configuration")
	f.BoolVar(&g.rego, "rego", false, "print the policies; write nothing")
	f.StringVar(&g.config.algorithm, "algorithm", initdata.SHA256, "digest algorithm: sha256, sha384 or sha512")
	f.StringArrayVar(&g.config.sealing, "sealing-key", nil, "take sealed secrets that this key signed: kbs:///repository/type/tag (repeatable)")
	g.config.images.flags(f)
	g.registry.flags(c)
	return c
}

func (g *generation) run(ctx context.Context, files []string, out, notes io.Writer) error {
	allowed, anyCommand, err := allowances(g.allow, notes)
	if err != nil {
		return err
	}
	texts, all := map[string][]byte{}, &policygen.Manifests{}
	templates := map[string][]*policygen.Template{}
	for _, path := range files {
		if texts[path], err = readManifest(path); err != nil {
			return err
		}
		if g.pin {
			if texts[path], err = g.pinned(ctx, texts[path], notes); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		m, err := policygen.Read(texts[path])
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		templates[path] = m.Templates
		all.Secrets, all.Configs = append(all.Secrets, m.Secrets...), append(all.Configs, m.Configs...)
		all.Templates = append(all.Templates, m.Templates...)
	}
	if len(all.Templates) == 0 {
		return errors.New("there is no pod in these files, and nothing with a template of one")
	}
	for _, path := range files {
		var values []string
		for _, t := range templates[path] {
			raw, err := g.generate(ctx, all, t, allowed, anyCommand, out)
			if err != nil {
				return fmt.Errorf("%s: %s %s: %w", path, t.Kind, t.Name, err)
			}
			if raw == nil {
				continue
			}
			value, err := initdata.EncodeAnnotation(raw)
			if err != nil {
				return err
			}
			digest, err := initdata.Digest(raw)
			if err != nil {
				return err
			}
			values = append(values, value)
			fmt.Fprintf(notes, "%s: %s %s: authorise it with: nacre refvalue register init_data %s\n", path, t.Kind, t.Name, hostData(digest))
		}
		if g.rego || len(values) == 0 {
			continue
		}
		if err := annotateTemplates(path, texts[path], values); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// generate makes the init-data of one template, or prints its policy and returns nil.
func (g *generation) generate(
	ctx context.Context, all *policygen.Manifests, t *policygen.Template, allowed policygen.Allowed, anyCommand bool, out io.Writer,
) ([]byte, error) {
	if !g.offline {
		for _, image := range t.Images() {
			if err := g.readConfig(ctx, image); err != nil {
				return nil, err
			}
		}
	}
	p, err := all.Pod(t, allowed, g.images)
	if errors.Is(err, policygen.ErrTag) {
		return nil, fmt.Errorf("%w: nacre policy generate --pin", err)
	} else if err != nil {
		return nil, err
	}
	p.AllowExec = anyCommand
	if !g.rego {
		g.config.policy = p
		return g.config.build()
	}
	text, err := p.Rego()
	if err == nil {
		_, err = io.WriteString(out, text)
	}
	return nil, err
}

// allowances reads the --allow flags; anyCommand is the one that names no pattern.
func allowances(flags []string, notes io.Writer) (allowed policygen.Allowed, anyCommand bool, err error) {
	for _, flag := range flags {
		what, pattern, patterned := strings.Cut(flag, "=")
		switch {
		case patterned && what == "exec":
			command, err := policygen.Command(strings.Fields(pattern))
			if err != nil {
				return allowed, false, fmt.Errorf("--allow %s: %w", flag, err)
			}
			allowed.Exec = append(allowed.Exec, command)
		case flag == "exec":
			anyCommand = true
		case flag == "logs":
			allowed.Logs = true
		case flag == "copy":
			allowed.Copy = true
		case flag == "port-forward":
			fmt.Fprintln(notes, "port-forward asks the guest for nothing: whoever has the host reaches the pod's ports, allowed or not; protect them by TLS")
		default:
			return allowed, false, fmt.Errorf("--allow %s: there are logs, copy, port-forward, exec and exec='WORD…'", flag)
		}
	}
	return allowed, anyCommand, nil
}

func readManifest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, pod.MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	return text, nil
}

// annotateTemplates writes one annotation a template into the manifest at path.
func annotateTemplates(path string, text []byte, values []string) error {
	found := 0
	out, err := editTemplates(text, func(i int, template *yaml.Node) error {
		if found++; i >= len(values) {
			return nil
		}
		return annotateObject(template, initdata.Annotation, values[i])
	})
	if err != nil {
		return err
	}
	if found != len(values) {
		return fmt.Errorf("%d of the %d pod templates can be written to: write them out, without aliases", found, len(values))
	}
	return rewrite(path, out)
}

// pinned is a manifest whose images have the digests that the registry has for their tags now.
func (g *generation) pinned(ctx context.Context, text []byte, notes io.Writer) ([]byte, error) {
	resolved, changed := map[string]string{}, false
	out, err := editTemplates(text, func(_ int, template *yaml.Node) error {
		spec := member(template, "spec")
		if spec == nil {
			return nil
		}
		for _, list := range []string{"initContainers", "containers"} {
			containers := member(spec, list)
			if containers == nil {
				continue
			}
			for _, c := range containers.Content {
				image := member(c, "image")
				if image == nil || strings.Contains(image.Value, "@") {
					continue
				}
				if resolved[image.Value] == "" {
					found, err := openImage(ctx, &g.registry, image.Value)
					if err != nil {
						return err
					}
					resolved[image.Value] = image.Value + "@" + found.digest().String()
					fmt.Fprintf(notes, "%s: pinned\n", resolved[image.Value])
				}
				image.Value, changed = resolved[image.Value], true
			}
		}
		return nil
	})
	if err != nil || !changed {
		return text, err
	}
	return out, nil
}

// readConfig gets the configuration of an image that is named by digest: from the cache, or once from the registry.
func (g *generation) readConfig(ctx context.Context, image string) error {
	_, digest, ok := strings.Cut(image, "@sha256:")
	if !ok || g.images[image] != nil {
		return nil // an image without a digest is refused later, by container
	}
	if len(digest) != 64 || strings.Trim(digest, "0123456789abcdef") != "" {
		return fmt.Errorf("%q has no SHA-256 digest", image)
	}
	cache, err := xdg("XDG_CACHE_HOME", ".cache")
	if err != nil {
		return err
	}
	path := filepath.Join(cache, "images", digest+".json")
	var config ocispec.ImageConfig
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if text, err = g.fetchConfig(ctx, image); err != nil {
			return fmt.Errorf("reading the configuration of %s: %w; without it, use --offline", image, err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("keeping an image's configuration: %w", err)
		}
		if err := replaceFile(path, text, 0o644); err != nil {
			return fmt.Errorf("keeping an image's configuration: %w", err)
		}
	case err != nil:
		return fmt.Errorf("reading an image's configuration: %w", err)
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&config); err != nil {
		return fmt.Errorf("%s is no configuration of an image: %w; remove it", path, err)
	}
	g.images[image] = &config
	return nil
}

func (g *generation) fetchConfig(ctx context.Context, image string) ([]byte, error) {
	opened, err := openImage(ctx, &g.registry, image)
	if err != nil {
		return nil, err
	}
	platform, err := opened.descriptor.Image() // of an index, that of linux/amd64
	if err != nil {
		return nil, err
	}
	file, err := platform.ConfigFile()
	if err != nil {
		return nil, err
	}
	c := file.Config
	return json.Marshal(ocispec.ImageConfig{User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir})
}
