// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/sealed"
	"github.com/nacre-project/nacre/secret"
)

// Unsealer opens sealed secrets. The data hub is the real one; its errors say why not, and never what.
type Unsealer interface {
	Unseal(ctx context.Context, text string) (secret.Bytes, error)
}

// Codes of refusals that are not the unsealer's. They are stable.
const (
	codeNoUnsealer     = "sealed_unsealer_missing"
	codeValueNotText   = "sealed_value_not_text"
	codeValueTooLarge  = "sealed_value_too_large"
	codeTooManySecrets = "sealed_too_many"
)

// Limits of what is resolved.
const (
	maxSealed = 256       // sealed secrets of one container, each of which is asked for
	maxEnv    = 128 << 10 // bytes of a variable with its name and the zero behind it, MAX_ARG_STRLEN of execve(2)
)

// viewsDir is where a container's views of copied volumes are, in its bundle.
const viewsDir = "volumes"

// resolve puts what sealed secrets stand for in their places: into variables of the environment, and into files of volumes
// that the host has copied. It happens after the policy has decided, on the text as it was sent, and before the container is
// made; one secret that stays sealed keeps the container from being made.
//
// Of a volume the container gets a view, a copy of its own: it sees all secrets or does not start, the host's later copies do
// not reach it, and what was unsealed is gone with it.
func (a *Agent) resolve(ctx context.Context, bundle string, s *specs.Spec) error {
	u := &unsealing{a.Unsealer, 0}
	if err := u.environment(ctx, s.Process.Env); err != nil {
		return err
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		path, ok := a.copiedSource(m.Source)
		if m.Type != "bind" || !ok {
			continue
		}
		view := filepath.Join(bundle, viewsDir, strconv.Itoa(i))
		if err := a.view(path, view); err != nil {
			return failed("copying the volume at "+m.Destination, err)
		}
		if err := u.files(ctx, view, m.Destination); err != nil {
			return err
		}
		m.Source = view
	}
	return nil
}

// copiedSource says whether a mount's source lies in what the host has copied, and where there.
func (a *Agent) copiedSource(source string) (string, bool) {
	path, err := a.copyPath(source)
	return path, err == nil
}

// unsealing counts what one request has unsealed.
type unsealing struct {
	Unsealer
	n int
}

// unseal opens one sealed secret; where says for what.
func (u *unsealing) unseal(ctx context.Context, where, text string) (secret.Bytes, error) {
	if u.n++; u.n > maxSealed {
		return secret.Bytes{}, refused(where, codeTooManySecrets, "a container may have %d sealed secrets", maxSealed)
	}
	if u.Unsealer == nil {
		return secret.Bytes{}, refused(where, codeNoUnsealer, "nothing in this guest opens sealed secrets")
	}
	value, err := u.Unseal(ctx, text)
	if err != nil {
		return secret.Bytes{}, status.Errorf(codes.FailedPrecondition, "%s: %v", where, err)
	}
	return value, nil
}

func refused(where, code, format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, "%s: %s (%s)", where, fmt.Sprintf(format, args...), code)
}

// environment replaces the sealed values among variables, in place.
func (u *unsealing) environment(ctx context.Context, env []string) error {
	for i, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if !sealed.Is(value) {
			continue
		}
		where := fmt.Sprintf("environment variable %.100q", name)
		plain, err := u.unseal(ctx, where, value)
		if err != nil {
			return err
		}
		switch raw := plain.Reveal(); {
		case len(name)+len(raw)+2 > maxEnv:
			err = refused(where, codeValueTooLarge, "the secret has %d bytes, and a variable at most %d: mount it as a file", len(raw), maxEnv)
		case !utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0:
			err = refused(where, codeValueNotText, "the secret is not UTF-8 text without zero bytes: mount it as a file")
		default:
			env[i] = name + "=" + string(raw)
		}
		plain.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// view copies a volume, or one file, out of what the host has copied.
func (a *Agent) view(path, to string) error {
	a.copied.mu.Lock()
	defer a.copied.mu.Unlock()
	root, err := os.OpenRoot(filepath.Join(a.Dir, copiedDir))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	info, err := root.Stat(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if !info.IsDir() {
		return viewFile(root, path, to)
	}
	volume, err := root.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { _ = volume.Close() }()
	return fs.WalkDir(volume.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, name) // made by this walk, out of no links
		switch d.Type() {
		case fs.ModeDir:
			return viewDirectory(volume, name, target)
		case fs.ModeSymlink:
			return viewLink(volume, name, target)
		}
		return viewFile(volume, name, target)
	})
}

func viewDirectory(root *os.Root, name, to string) error {
	info, err := root.Stat(name)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	return own(info, to, info.Mode().Perm())
}

func viewLink(root *os.Root, name, to string) error {
	target, err := root.Readlink(name)
	if err != nil {
		return err
	}
	return os.Symlink(target, to)
}

func viewFile(root *os.Root, name, to string) error {
	from, err := root.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is neither a file nor a directory", name)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return own(info, to, info.Mode().Perm())
}

// own gives a file or directory the owner of another, and permissions.
func own(info fs.FileInfo, path string, mode fs.FileMode) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the file system does not tell owners")
	}
	if err := os.Lchown(path, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// files unseals the sealed files in a view, which nobody else knows yet.
func (u *unsealing) files(ctx context.Context, view, destination string) error {
	return filepath.WalkDir(view, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := sealedText(path)
		if err != nil || text == "" {
			return err
		}
		name, err := filepath.Rel(view, path)
		if err != nil {
			return err
		}
		value, err := u.unseal(ctx, fmt.Sprintf("file %.100q of the volume at %.100q", name, destination), text)
		if err != nil {
			return err
		}
		defer value.Wipe()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(value.Reveal())
		return errors.Join(err, f.Close())
	})
}

// sealedText returns the content of a file that begins as a sealed secret does, "" if it does not.
func sealedText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, len(sealed.Prefix))
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	if !sealed.Is(string(head[:n])) {
		return "", nil
	}
	rest, err := io.ReadAll(io.LimitReader(f, sealed.MaxText)) // one that is longer is refused for that
	return string(head) + string(rest), err
}
