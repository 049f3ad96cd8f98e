// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

const (
	// terminationSuffix ends the name of the file that a host means to mount for a container's termination message.
	terminationSuffix = "termination-log"
	// terminationPath is where Kubernetes mounts it when a pod names no other place.
	terminationPath = "/dev/termination-log"
	// maxTermination caps what of a message goes to the host, in bytes; Kubernetes shows no more. It is the end that does.
	maxTermination = 4096
)

// asksTermination says whether a mount is that of a container's termination message. The host and the guest share no file
// system: the container writes into a file of the guest, and what is in it leaves by GetDiagnosticData alone.
func (a *Agent) asksTermination(m *agent.Mount) bool {
	path, copied := a.copiedSource(m.Source)
	return m.Type == "bind" && copied && !strings.Contains(path, "/") && strings.HasSuffix(path, terminationSuffix)
}

// terminationFile is the file of a container's termination message.
func (a *Agent) terminationFile(id string) string { return filepath.Join(a.Dir, id, terminationSuffix) }

func (a *Agent) terminationMount(id string, m *agent.Mount) (specs.Mount, error) {
	if m.Destination != terminationPath {
		if err := checkDestination(m.Destination); err != nil {
			return specs.Mount{}, err
		}
	}
	return specs.Mount{Destination: m.Destination, Type: "bind", Source: a.terminationFile(id),
		Options: []string{"bind", "rprivate", "rw", "nosuid", "nodev", "noexec"}}, nil
}

// makeTermination makes a container's file for its message, which any user of the container may write.
func (a *Agent) makeTermination(id string) error {
	f, err := os.OpenFile(a.terminationFile(id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o666), f.Close())
}

// GetDiagnosticData returns a container's termination message, the only data there is. It is there until the container is
// removed. Bytes that are not UTF-8 are replaced.
func (a *Agent) GetDiagnosticData(
	_ context.Context, r *agent.GetDiagnosticDataRequest,
) (*agent.GetDiagnosticDataResponse, error) {
	if r.LogType != "termination-log" && r.LogType != "termination_log" {
		return nil, invalid("diagnostic data %.100q: only the termination-log can be had", r.LogType)
	}
	c, err := a.find(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if c.get() == stateCreating {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is still being made", c.id)
	}
	text, err := tail(a.terminationFile(c.id), maxTermination)
	if err != nil {
		return nil, failed("reading the termination message of container "+c.id, err)
	}
	return &agent.GetDiagnosticDataResponse{Data: strings.ToValidUTF8(text, "\uFFFD")}, nil
}

// tail returns the last bytes of a file.
func tail(path string, most int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	return string(text), err
}
