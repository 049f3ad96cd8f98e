// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Kubelet is what a kubelet and a container runtime make of a container beyond what its manifest says. The zero value adds nothing.
type Kubelet struct {
	// References are further names of the same image: its registry written out, or without the tag beside the digest.
	References []string
	// Values are patterns (Rego's regular expressions, unanchored) by field of the downward API. Where a request's argument or variable
	// has [Field] of it, such a value stands.
	Values map[string]string
	// Services are patterns of variables, unanchored, that stand for the cluster's Services.
	Services []string
	// OOMScore is the lowest and the highest score for when memory runs out; nil is the request's alone.
	OOMScore *[2]int64
	// Image is the image's configuration, for hosts that fill in what the manifest leaves to it; nil is for none.
	Image *ocispec.ImageConfig
	// Commands are run in the container with exactly these arguments: those of probes and hooks.
	Commands [][]string
	// Exec are patterns of commands, as [Command] makes them, that the host may run and talk to.
	Exec []string
	// ServiceAccount says that the kubelet may mount the cluster's credentials.
	ServiceAccount bool
}

// The marks around a field's name cannot stand in a manifest: they are no characters.
const (
	fieldBegin = "\uFDD0"
	fieldEnd   = "\uFDD1"
)

// Field stands in a request's argument or variable for a value of the downward API.
func Field(name string) string { return fieldBegin + name + fieldEnd }

var fieldMark = regexp.MustCompile(fieldBegin + "([^" + fieldEnd + "]*)" + fieldEnd)

// kubernetes are the parts of a container's data that only a kubelet's host needs.
type kubernetes struct {
	References   []string          `json:"references,omitempty"`
	ArgsPatterns map[string]string `json:"args_patterns,omitempty"` // by position, over Process.Args
	EnvPatterns  map[string]string `json:"env_patterns,omitempty"`  // by the variable's name
	// EnvRest is the pattern of variables that nobody sets but kubelets and runtimes, joined by zero bytes. EnvReserved are names, with
	// the sign of equality, that would fit it although the owner or the image has them.
	EnvRest     string     `json:"env_rest,omitempty"`
	EnvReserved []string   `json:"env_reserved,omitempty"`
	OOMScore    *[2]int64  `json:"oom_score,omitempty"`
	Image       *image     `json:"image,omitempty"`
	Exec        *execution `json:"exec,omitempty"`
}

// image is what a host makes of the image's configuration.
type image struct {
	Args         []string          `json:",omitzero"`
	ArgsPatterns map[string]string `json:"args_patterns,omitempty"`
	Env          []string
	Cwd          string
	User         *user `json:",omitempty"` // absent when the image names it
}

type execution struct {
	Argv     [][]string `json:"argv"`
	Patterns []string   `json:"patterns"`
	User     user       `json:"user"`
}

// Where hosts that hand on a kubelet's volumes put them: named after the container, a random number and the mount's last element.
const (
	handedOn  = `^/run/kata-containers/shared/containers/[0-9a-f]{64}-[0-9a-f]{16}-`
	copiedDir = "/run/kata-containers/shared/containers/"
	// below is the rest of a path without "..": each element has a character that is no dot.
	below   = `(/\.{0,2}[A-Za-z0-9_-][A-Za-z0-9._-]*)`
	account = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// given are the files that kubelet and guest make, whatever their content.
var given = []string{"resolv.conf", "hosts", "hostname", "termination-log"}

func (c *container) kubelet(k Kubelet) error {
	p := c.OCI.Process
	c.References, c.OOMScore = k.References, k.OOMScore
	c.EnvPatterns = map[string]string{}
	p.Env = slices.DeleteFunc(p.Env, func(variable string) bool {
		if !fieldMark.MatchString(variable) {
			return false
		}
		name, _, _ := strings.Cut(variable, "=")
		c.EnvPatterns[name] = marked(variable, k.Values)
		return true
	})
	if k.Image != nil {
		c.Image = c.filled(k)
	}
	c.ArgsPatterns = argsPatterns(p.Args, k.Values)
	c.rest(k.Services)
	for i, m := range c.OCI.Mounts {
		if strings.HasPrefix(m.Source, copiedDir) {
			base := path.Base(m.Destination)
			if slices.Contains(given, base) || base == path.Base(account) {
				return fmt.Errorf("a volume at %s would have the name of a file of the kubelet's: mount it elsewhere", m.Destination)
			}
			c.OCI.Mounts[i].SourcePattern = handedOn + regexp.QuoteMeta(base) + "$"
		}
	}
	optional := func(destination, base string) {
		if !slices.ContainsFunc(c.OCI.Mounts, func(m mount) bool { return m.Destination == destination }) {
			c.OCI.Mounts = append(c.OCI.Mounts, mount{Destination: destination, SourcePattern: handedOn + regexp.QuoteMeta(base) + "$",
				Type: "bind", Options: []string{}, Optional: true})
		}
	}
	optional("/dev/termination-log", "termination-log")
	if k.ServiceAccount {
		optional(account, path.Base(account))
		last := &c.OCI.Mounts[len(c.OCI.Mounts)-1]
		if last.Destination == account {
			last.Options = []string{"ro"}
		}
	}
	if len(k.Commands)+len(k.Exec) == 0 {
		return nil
	}
	c.Exec = &execution{Argv: k.Commands, Patterns: list(k.Exec), User: p.User}
	if c.Exec.Argv == nil {
		c.Exec.Argv = [][]string{}
	}
	if c.OCI.Annotations[annotationUser] != "" {
		if c.Image == nil || c.Image.User == nil {
			return fmt.Errorf("commands run as the container's user, which is the image's and not known here: " +
				"set securityContext.runAsUser, or let the image's configuration be read (and name the user by number in it)")
		}
		c.Exec.User = *c.Image.User
	}
	return nil
}

// hostnamePattern is the variable that runtimes add. It differs from replica to replica.
const hostnamePattern = `HOSTNAME=[a-z0-9.-]*`

// serviceName are names of variables that stand for Services.
var serviceName = regexp.MustCompile(`_(SERVICE|PORT)(_|$)`)

// rest makes the pattern of the variables that the manifest does not have.
func (c *container) rest(services []string) {
	var own []string
	for _, variable := range c.OCI.Process.Env {
		name, _, _ := strings.Cut(variable, "=")
		own = append(own, name)
	}
	if c.Image != nil {
		for _, variable := range c.Image.Env {
			name, _, _ := strings.Cut(variable, "=")
			own = append(own, name)
		}
	}
	own = slices.AppendSeq(own, maps.Keys(c.EnvPatterns))
	one := slices.Clone(services)
	if !slices.Contains(own, "HOSTNAME") {
		one = append(one, hostnamePattern)
	}
	for _, name := range slices.Sorted(maps.Keys(c.EnvPatterns)) {
		one = append(one, strings.TrimSuffix(strings.TrimPrefix(c.EnvPatterns[name], "^"), "$"))
	}
	for _, name := range own {
		if len(services) > 0 && serviceName.MatchString(name) && c.EnvPatterns[name] == "" {
			c.EnvReserved = append(c.EnvReserved, name+"=")
		}
	}
	c.EnvRest = "^$"
	if len(one) > 0 {
		each := "(" + strings.Join(one, "|") + ")"
		c.EnvRest = "^(" + each + `(\x00` + each + ")*)?$"
	}
}

// filled is the container's process as a host describes it that has read the image.
func (c *container) filled(k Kubelet) *image {
	p, config := c.OCI.Process, k.Image
	out := &image{Cwd: config.WorkingDir, Env: []string{}}
	if out.Cwd == "" {
		out.Cwd = "/"
	}
	switch {
	case c.OCI.Annotations[annotationArgs] != "":
		out.Args = slices.Concat(config.Entrypoint, p.Args)
	case len(p.Args) == 0:
		out.Args = slices.Concat(config.Entrypoint, config.Cmd)
	default:
		out.Args = slices.Clone(p.Args)
	}
	out.ArgsPatterns = argsPatterns(out.Args, k.Values)
	for _, variable := range config.Env {
		name, _, _ := strings.Cut(variable, "=")
		own := func(have string) bool { return strings.HasPrefix(have, name+"=") }
		if _, pattern := c.EnvPatterns[name]; !pattern && !slices.ContainsFunc(p.Env, own) {
			out.Env = append(slices.DeleteFunc(out.Env, own), variable)
		}
	}
	if c.OCI.Annotations[annotationUser] == "" {
		out.User = &p.User
	} else if u, ok := numericUser(config.User); ok {
		u.AdditionalGids = p.User.AdditionalGids
		out.User = &u
	}
	return out
}

// numericUser reads an image's user when it is made of numbers; a name is looked up in the image, by the guest.
func numericUser(text string) (user, bool) {
	uid, gid, _ := strings.Cut(text, ":")
	var out user
	for _, part := range []struct {
		text string
		to   *uint32
	}{{uid, &out.UID}, {gid, &out.GID}} {
		if part.text == "" {
			continue
		}
		n, err := strconv.ParseUint(part.text, 10, 32)
		if err != nil {
			return user{}, false
		}
		*part.to = uint32(n)
	}
	out.AdditionalGids = []uint32{}
	return out, true
}

func argsPatterns(args []string, values map[string]string) map[string]string {
	patterns := map[string]string{}
	for i, a := range args {
		if fieldMark.MatchString(a) {
			patterns[strconv.Itoa(i)] = marked(a, values)
			args[i] = fieldMark.ReplaceAllString(a, "{$1}")
		}
	}
	return patterns
}

// marked is the pattern of a text with fields in it.
func marked(text string, values map[string]string) string {
	var out strings.Builder
	out.WriteString("^")
	at := 0
	for _, m := range fieldMark.FindAllStringSubmatchIndex(text, -1) {
		out.WriteString(regexp.QuoteMeta(text[at:m[0]]))
		out.WriteString("(" + values[text[m[2]:m[3]]] + ")")
		at = m[1]
	}
	out.WriteString(regexp.QuoteMeta(text[at:]) + "$")
	return out.String()
}

// kubelet says of the files how a kubelet's host copies them.
func (d *data) kubelet() {
	bases := map[string][]string{} // of mounts, by volume
	for _, c := range d.Containers {
		for _, m := range c.OCI.Mounts {
			if volume, ok := strings.CutPrefix(m.Source, copiedDir); ok {
				bases[volume] = append(bases[volume], regexp.QuoteMeta(path.Base(m.Destination)))
			}
			if m.Destination == account && m.Optional {
				d.KubeletFiles = append(d.KubeletFiles, handedOn+path.Base(account)+below+"{1,3}$")
				d.KubeletVolumes = append(d.KubeletVolumes, handedOn+path.Base(account)+below+"{0,2}$")
			}
		}
	}
	var names []string
	for _, name := range given {
		names = append(names, regexp.QuoteMeta(name))
	}
	d.KubeletFiles = append(d.KubeletFiles, handedOn+"("+strings.Join(names, "|")+")$")
	for _, volume := range slices.Sorted(maps.Keys(bases)) {
		slices.Sort(bases[volume])
		d.KubeletVolumes = append(d.KubeletVolumes, handedOn+"("+strings.Join(slices.Compact(bases[volume]), "|")+")"+below+"{0,8}$")
	}
	slices.Sort(d.KubeletFiles)
	slices.Sort(d.KubeletVolumes)
	d.KubeletFiles, d.KubeletVolumes = slices.Compact(d.KubeletFiles), slices.Compact(d.KubeletVolumes)
	var more []file
	for _, f := range d.Files {
		volume, key, inVolume := strings.Cut(strings.TrimPrefix(f.Path, copiedDir), "/")
		if b := bases[volume]; inVolume && len(b) > 0 && f.Type == "Regular" {
			f.Pattern = handedOn + "(" + strings.Join(slices.Compact(b), "|") + `)(/\.\.[0-9][0-9_.]*)?/` + regexp.QuoteMeta(key) + "$"
		}
		more = append(more, f)
	}
	d.Files = list(more)
}

// Command is the pattern of a command of words: "*" in a word stands for any characters, and "**" as the last word for any further words.
// The words are joined by zero bytes, which cannot stand in them.
func Command(words []string) (string, error) {
	if len(words) == 0 || words[0] == "**" {
		return "", fmt.Errorf("the command %q names no program", words)
	}
	var out strings.Builder
	out.WriteString("^")
	for i, w := range words {
		if w == "**" && i == len(words)-1 {
			out.WriteString(`(\x00[^\x00]*)*`)
			break
		}
		if i > 0 {
			out.WriteString(`\x00`)
		}
		out.WriteString(strings.ReplaceAll(regexp.QuoteMeta(w), `\*`, `[^\x00]*`))
	}
	out.WriteString("$")
	return out.String(), nil
}
