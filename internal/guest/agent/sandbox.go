// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nacre-project/nacre/api/agent"
)

// answerTime is how long the last answers may take before the machine ends.
const answerTime = 3 * time.Second

// Files and directories below Dir that all containers of the pod share.
const (
	sandboxDir = "sandbox"
	shmDir     = sandboxDir + "/shm"
	resolvConf = sandboxDir + "/resolv.conf"
	hostsFile  = sandboxDir + "/hosts"
	hostname   = sandboxDir + "/hostname"
)

// sandbox is the pod.
type sandbox struct {
	id       string
	hostname string
}

// CreateSandbox makes the pod: its name, its name servers, its shared volumes. It happens once.
func (a *Agent) CreateSandbox(_ context.Context, r *agent.CreateSandboxRequest) (*emptypb.Empty, error) {
	if err := checkIdentifier("sandbox id", r.SandboxId); err != nil {
		return nil, err
	}
	switch {
	case r.GuestHookPath != "":
		return nil, invalid("guest hooks are not run in this guest")
	case len(r.KernelModules) > 0:
		return nil, invalid("kernel modules cannot be loaded: the guest's kernel is locked down")
	case r.SandboxPidns:
		return nil, invalid("a PID namespace that containers share is not supported")
	}
	if err := checkHostname(r.Hostname); err != nil {
		return nil, err
	}
	resolver, err := resolverFile(r.Dns)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sandbox != nil {
		return nil, status.Errorf(codes.AlreadyExists, "this guest has its sandbox already, %s", a.sandbox.id)
	}
	if err := a.writeSandboxFiles(r.Hostname, resolver); err != nil {
		return nil, failed("making the sandbox", err)
	}
	for _, s := range r.Storages {
		if err := a.addVolume(s); err != nil {
			return nil, err
		}
	}
	a.sandbox = &sandbox{id: r.SandboxId, hostname: r.Hostname}
	return nothing, nil
}

// checkHostname takes nothing or one label. The pod's address gets this name in /etc/hosts, before any name server is
// asked: a name with dots could be one that containers call, and the loopback's names are not the host's to give.
func checkHostname(name string) error {
	if name == "" {
		return nil
	}
	lower := strings.ToLower(name)
	switch {
	case strings.Contains(name, ".") || !domainName(name, false):
		return invalid("hostname %.200q is not a DNS label", name)
	case lower == "localhost" || strings.HasPrefix(lower, "ip6-"):
		return invalid("hostname %.200q is a name of the loopback", name)
	}
	return nil
}

func (a *Agent) writeSandboxFiles(host, resolver string) error {
	if err := os.MkdirAll(filepath.Join(a.Dir, shmDir), 0o755); err != nil {
		return err
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if host != "" {
		for _, address := range a.network.addresses() {
			hosts += address.String() + "\t" + host + "\n"
		}
	}
	for path, text := range map[string]string{
		filepath.Join(a.Dir, resolvConf): resolver,
		filepath.Join(a.Dir, hostsFile):  hosts,
		filepath.Join(a.Dir, hostname):   host + "\n",
		a.Resolver:                       resolver,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Limits of resolv.conf(5), as glibc has them.
const (
	maxNameServers = 3
	maxSearch      = 32
	maxDNSLines    = 64
)

// resolverFile writes resolv.conf anew from what the host sent: name servers that are addresses, search domains that
// are names, options in the form of such. A bare address stands for a name server. Comments and blanks are dropped,
// and so is trust-ad: a server of the host's choice must not vouch for its answers (glibc takes a prefix for it).
func resolverFile(lines []string) (string, error) {
	if len(lines) > maxDNSLines {
		return "", invalid("%d lines of DNS configuration, at most %d are read", len(lines), maxDNSLines)
	}
	var out strings.Builder
	servers := 0
	for _, line := range lines {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") || strings.HasPrefix(words[0], ";") {
			continue
		}
		if _, err := netip.ParseAddr(words[0]); err == nil && len(words) == 1 {
			words = []string{"nameserver", words[0]}
		}
		var err error
		switch args := words[1:]; words[0] {
		case "nameserver":
			if servers++; servers > maxNameServers {
				err = fmt.Errorf("more than %d name servers", maxNameServers)
			} else {
				err = checkNameServer(args)
			}
		case "search", "domain":
			err = checkSearch(args)
		case "options":
			err = checkOptions(args)
			words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "trust-ad") })
			if err == nil && len(words) == 1 {
				continue
			}
		default:
			err = fmt.Errorf("%.100q is not known", words[0])
		}
		if err != nil {
			return "", invalid("DNS configuration %.200q: %v", line, err)
		}
		out.WriteString(strings.Join(words, " ") + "\n")
	}
	return out.String(), nil
}

func checkNameServer(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one address")
	}
	ip, err := netip.ParseAddr(args[0])
	if err != nil || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("want the address of one server")
	}
	return nil
}

func checkSearch(args []string) error {
	if len(args) == 0 || len(args) > maxSearch {
		return fmt.Errorf("want 1 to %d domains", maxSearch)
	}
	for _, domain := range args {
		if name := strings.TrimSuffix(domain, "."); name != "" && !domainName(name, true) {
			return fmt.Errorf("%.100q is not a domain", domain)
		}
	}
	return nil
}

// domainName says whether a name consists of labels as RFC 1123 has them: letters, digits, and hyphens inside. Service
// names have underscores too.
func domainName(name string, underscores bool) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if !only(label, func(c byte) bool { return alphanumeric(c) || c == '-' || c == '_' && underscores }) {
			return false
		}
	}
	return true
}

func checkOptions(args []string) error {
	if len(args) == 0 || len(args) > maxSearch {
		return fmt.Errorf("want 1 to %d options", maxSearch)
	}
	for _, option := range args {
		name, value, hasValue := strings.Cut(option, ":")
		if name == "" || len(name) > 32 || !only(name, func(c byte) bool { return alphanumeric(c) || c == '-' }) ||
			hasValue && !digits(value) {
			return fmt.Errorf("%.100q is not an option", option)
		}
	}
	return nil
}

// DestroySandbox ends all containers and then the machine.
func (a *Agent) DestroySandbox(ctx context.Context, _ *agent.DestroySandboxRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	var all []*container
	for _, c := range a.containers {
		all = append(all, c)
	}
	a.mu.Unlock()
	for _, c := range all {
		if err := a.remove(ctx, c, answerTime); err != nil {
			a.Log.Warn("a container did not end cleanly", "container", c.id, "error", err)
		}
	}
	a.finish.Do(func() { close(a.finished) })
	return nothing, nil
}
