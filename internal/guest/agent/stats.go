// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/agent"
)

// Limits of what statistics say. The files are the kernel's, but what stands in them depends on what containers do.
const (
	maxGroupFile   = 64 << 10 // bytes of one file of a control group
	maxGroupValues = 512      // values of one file
	maxLinks       = 64       // network interfaces in one answer
)

// StatsContainer says what a container uses, from its control group (cgroup v2), and what went over the pod's network.
// Times are in nanoseconds. A controller that the kernel does not have leaves its part empty.
func (a *Agent) StatsContainer(
	_ context.Context, r *agent.StatsContainerRequest,
) (*agent.StatsContainerResponse, error) {
	c, err := a.find(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if state := c.get(); state != stateCreated && state != stateRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is still being made, or is gone", c.id)
	}
	group, err := readGroup(a.group(c.id))
	if err != nil {
		return nil, failed("reading what container "+c.id+" uses", err)
	}
	links, err := linkStats()
	if err != nil {
		return nil, failed("reading what the pod's network has carried", err)
	}
	return &agent.StatsContainerResponse{CgroupStats: group, NetworkStats: links}, nil
}

// group is the directory of a container's control group.
func (a *Agent) group(id string) string { return filepath.Join(a.Groups, id) }

// groupReader reads the files of one control group and keeps the first error.
type groupReader struct {
	dir string
	err error
}

func readGroup(dir string) (*agent.CgroupStats, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("finding its control group: %w", err)
	}
	g := &groupReader{dir: dir}
	stats := &agent.CgroupStats{
		CpuStats: g.cpu(), MemoryStats: g.memory(), BlkioStats: g.io(), HugetlbStats: g.hugetlb(),
		PidsStats: &agent.PidsStats{Current: g.number("pids.current", 0), Limit: g.number("pids.max", 0)},
	}
	return stats, g.err
}

// text is a file's content, "" when there is none.
func (g *groupReader) text(name string) string {
	f, err := os.Open(filepath.Join(g.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err == nil {
		defer f.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(f, maxGroupFile)); err == nil {
			return string(text)
		}
	}
	g.fail(err)
	return ""
}

func (g *groupReader) fail(err error) {
	if g.err == nil {
		g.err = err
	}
}

// number is the one number of a file; "max" is unlimited, an absent file 0.
func (g *groupReader) number(name string, unlimited uint64) uint64 {
	switch text := strings.TrimSpace(g.text(name)); text {
	case "":
		return 0
	case "max":
		return unlimited
	default:
		return g.parse(name, text)
	}
}

func (g *groupReader) parse(name, text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		g.fail(fmt.Errorf("%s: %.100q is not a number", name, text))
	}
	return n
}

// values are those of a file with lines of a name and a number.
func (g *groupReader) values(name string) map[string]uint64 {
	values := map[string]uint64{}
	for line := range strings.Lines(g.text(name)) {
		if words := strings.Fields(line); len(words) == 2 && len(values) < maxGroupValues {
			values[words[0]] = g.parse(name, words[1])
		}
	}
	return values
}

func (g *groupReader) cpu() *agent.CpuStats {
	const nanoseconds = 1000 // in a microsecond
	v := g.values("cpu.stat")
	return &agent.CpuStats{
		CpuUsage: &agent.CpuUsage{
			TotalUsage:        v["usage_usec"] * nanoseconds,
			UsageInKernelmode: v["system_usec"] * nanoseconds,
			UsageInUsermode:   v["user_usec"] * nanoseconds,
		},
		ThrottlingData: &agent.ThrottlingData{
			Periods: v["nr_periods"], ThrottledPeriods: v["nr_throttled"], ThrottledTime: v["throttled_usec"] * nanoseconds,
		},
	}
}

func (g *groupReader) memory() *agent.MemoryStats {
	v := g.values("memory.stat")
	return &agent.MemoryStats{
		Cache: v["file"], Stats: v, UseHierarchy: true,
		Usage: &agent.MemoryData{
			Usage: g.number("memory.current", 0), MaxUsage: g.number("memory.peak", 0),
			Failcnt: g.values("memory.events")["max"], Limit: g.number("memory.max", math.MaxUint64),
		},
		SwapUsage: &agent.MemoryData{
			Usage: g.number("memory.swap.current", 0), Limit: g.number("memory.swap.max", math.MaxUint64),
		},
		KernelUsage: &agent.MemoryData{Usage: v["kernel"]},
	}
}

// io reads io.stat: lines of a device's number and name=value words.
func (g *groupReader) io() *agent.BlkioStats {
	out := &agent.BlkioStats{}
	kinds := map[string]struct {
		list *[]*agent.BlkioStatsEntry
		op   string
	}{
		"rbytes": {&out.IoServiceBytesRecursive, "Read"}, "wbytes": {&out.IoServiceBytesRecursive, "Write"},
		"dbytes": {&out.IoServiceBytesRecursive, "Discard"},
		"rios":   {&out.IoServicedRecursive, "Read"}, "wios": {&out.IoServicedRecursive, "Write"},
		"dios": {&out.IoServicedRecursive, "Discard"},
	}
	for line := range strings.Lines(g.text("io.stat")) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		major, minor, _ := strings.Cut(words[0], ":")
		for _, word := range words[1:] {
			name, value, _ := strings.Cut(word, "=")
			kind, known := kinds[name]
			if !known || len(*kind.list) >= maxGroupValues {
				continue
			}
			*kind.list = append(*kind.list, &agent.BlkioStatsEntry{
				Major: g.parse("io.stat", major), Minor: g.parse("io.stat", minor), Op: kind.op,
				Value: g.parse("io.stat", value),
			})
		}
	}
	return out
}

// hugetlb reads hugetlb.<size>.current and its neighbours; sizes are like 2MB.
func (g *groupReader) hugetlb() map[string]*agent.HugetlbStats {
	files, _ := filepath.Glob(filepath.Join(g.dir, "hugetlb.*.current")) // its only error is a malformed pattern
	out := map[string]*agent.HugetlbStats{}
	for _, f := range files {
		size, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(f), "hugetlb."), ".")
		if _, seen := out[size]; seen || len(out) >= maxGroupValues {
			continue // hugetlb.<size>.rsvd.current
		}
		out[size] = &agent.HugetlbStats{
			Usage:   g.number("hugetlb."+size+".current", 0),
			Failcnt: g.values("hugetlb." + size + ".events")["max"],
		}
	}
	return out
}

// linkStats counts what the network interfaces have carried, but the loopback: that is between containers.
func linkStats() ([]*agent.NetworkStats, error) {
	links, err := hostLinks()
	if err != nil {
		return nil, err
	}
	var out []*agent.NetworkStats
	for _, l := range links {
		s := l.Attrs().Statistics
		if s == nil {
			s = &netlink.LinkStatistics{}
		}
		out = append(out, &agent.NetworkStats{
			Name: l.Attrs().Name, RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxErrors: s.RxErrors, RxDropped: s.RxDropped,
			TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxErrors: s.TxErrors, TxDropped: s.TxDropped,
		})
	}
	return out, nil
}

// GetVolumeStats says how full a volume of the pod is. Volumes are the only paths that it answers for.
func (a *Agent) GetVolumeStats(_ context.Context, r *agent.VolumeStatsRequest) (*agent.VolumeStatsResponse, error) {
	a.mu.Lock()
	known := a.volumes[r.VolumeGuestPath]
	a.mu.Unlock()
	if !known {
		return nil, status.Errorf(codes.NotFound, "there is no volume %.200q in this pod", r.VolumeGuestPath)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(r.VolumeGuestPath, &s); err != nil {
		return nil, failed("reading how full the volume is", err)
	}
	block := uint64(s.Bsize)
	return &agent.VolumeStatsResponse{
		Usage: []*agent.VolumeUsage{
			{Unit: agent.VolumeUsage_BYTES, Total: s.Blocks * block, Available: s.Bavail * block,
				Used: (s.Blocks - s.Bfree) * block},
			{Unit: agent.VolumeUsage_INODES, Total: s.Files, Available: s.Ffree, Used: s.Files - s.Ffree},
		},
		VolumeCondition: &agent.VolumeCondition{},
	}, nil
}
