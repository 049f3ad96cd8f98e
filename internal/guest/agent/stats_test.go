// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/nacre-project/nacre/api/agent"
)

// groupFiles are a control group's as a kernel 6.12 has them, without what is not read.
var groupFiles = map[string]string{
	"cpu.stat": "usage_usec 7000\nuser_usec 4000\nsystem_usec 3000\nnr_periods 5\nnr_throttled 2\nthrottled_usec 900\n" +
		"nr_bursts 0\n",
	"memory.current": "8192\n", "memory.peak": "16384\n", "memory.max": "max\n", "memory.events": "low 0\nhigh 0\nmax 3\noom 1\n",
	"memory.stat":  "anon 4096\nfile 2048\nkernel 1024\n",
	"pids.current": "3\n", "pids.max": "max\n",
	"io.stat":             "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
	"hugetlb.2MB.current": "2097152\n", "hugetlb.2MB.rsvd.current": "5\n", "hugetlb.2MB.events": "max 4\n",
}

func makeGroup(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadGroup(t *testing.T) {
	got, err := readGroup(makeGroup(t, groupFiles))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(op string, value uint64) *agent.BlkioStatsEntry {
		return &agent.BlkioStatsEntry{Major: 254, Op: op, Value: value}
	}
	want := &agent.CgroupStats{
		CpuStats: &agent.CpuStats{
			CpuUsage:       &agent.CpuUsage{TotalUsage: 7e6, UsageInKernelmode: 3e6, UsageInUsermode: 4e6},
			ThrottlingData: &agent.ThrottlingData{Periods: 5, ThrottledPeriods: 2, ThrottledTime: 900e3},
		},
		MemoryStats: &agent.MemoryStats{
			Cache: 2048, UseHierarchy: true, Stats: map[string]uint64{"anon": 4096, "file": 2048, "kernel": 1024},
			Usage:     &agent.MemoryData{Usage: 8192, MaxUsage: 16384, Failcnt: 3, Limit: math.MaxUint64},
			SwapUsage: &agent.MemoryData{}, KernelUsage: &agent.MemoryData{Usage: 1024},
		},
		PidsStats: &agent.PidsStats{Current: 3},
		BlkioStats: &agent.BlkioStats{
			IoServiceBytesRecursive: []*agent.BlkioStatsEntry{entry("Read", 10), entry("Write", 20), entry("Discard", 0)},
			IoServicedRecursive:     []*agent.BlkioStatsEntry{entry("Read", 1), entry("Write", 2), entry("Discard", 0)},
		},
		HugetlbStats: map[string]*agent.HugetlbStats{"2MB": {Usage: 2 << 20, Failcnt: 4}},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if _, err := readGroup(makeGroup(t, nil)); err != nil {
		t.Errorf("a group without controllers: %v", err)
	}
	if _, err := readGroup(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a group that is not there has statistics")
	}
}

// TestAttackGroupFiles has the files of a control group say what no kernel does.
func TestAttackGroupFiles(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no number":         {"pids.current": "many\n"},
		"number too large":  {"memory.current": "18446744073709551616\n"},
		"negative":          {"memory.stat": "file -1\n"},
		"device of letters": {"io.stat": "a:b rbytes=1\n"},
		"a directory":       nil,
	} {
		t.Run(name, func(t *testing.T) {
			dir := makeGroup(t, files)
			if files == nil {
				if err := os.Mkdir(filepath.Join(dir, "cpu.stat"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := readGroup(dir); err == nil {
				t.Errorf("%v", got)
			}
		})
	}
	t.Run("many values", func(t *testing.T) {
		var text strings.Builder
		for i := range 4 * maxGroupValues {
			text.WriteString("k" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)) + " 1\n")
		}
		got, err := readGroup(makeGroup(t, map[string]string{"memory.stat": text.String()}))
		if err != nil || len(got.MemoryStats.Stats) > maxGroupValues {
			t.Errorf("%d values, %v", len(got.GetMemoryStats().GetStats()), err)
		}
	})
}

func FuzzGroupFile(f *testing.F) {
	for _, text := range groupFiles {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		files := map[string]string{}
		for name := range groupFiles {
			files[name] = text
		}
		_, _ = readGroup(makeGroup(t, files))
	})
}

func TestStatsContainer(t *testing.T) {
	a := testAgent(t)
	a.Groups = t.TempDir()
	if err := os.Rename(makeGroup(t, groupFiles), filepath.Join(a.Groups, "c1")); err != nil {
		t.Fatal(err)
	}
	c := &container{id: "c1", state: stateRunning}
	a.containers["c1"] = c
	got, err := a.StatsContainer(t.Context(), &agent.StatsContainerRequest{ContainerId: "c1"})
	if err != nil || got.CgroupStats.PidsStats.Current != 3 {
		t.Errorf("%v, %v", got, err)
	}
	for _, l := range got.GetNetworkStats() {
		if l.Name == "lo" {
			t.Error("the loopback is among what the network has carried")
		}
	}
	c.state = stateCreating
	wantCode(t, "a container that is being made", codes.FailedPrecondition)(
		a.StatsContainer(t.Context(), &agent.StatsContainerRequest{ContainerId: "c1"}))
	wantCode(t, "no container", codes.NotFound)(
		a.StatsContainer(t.Context(), &agent.StatsContainerRequest{ContainerId: "../c1"}))
}

func TestVolumeStats(t *testing.T) {
	a := testAgent(t)
	volume := t.TempDir()
	a.volumes[volume] = true
	got, err := a.GetVolumeStats(t.Context(), &agent.VolumeStatsRequest{VolumeGuestPath: volume})
	if err != nil || len(got.Usage) != 2 || got.Usage[0].Total < got.Usage[0].Used || got.Usage[0].Total == 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestAttackVolumeStats asks for what is no volume: how full the guest's own file systems are is not the host's to know.
func TestAttackVolumeStats(t *testing.T) {
	a := testAgent(t)
	a.volumes[filepath.Join(a.Dir, "v")] = true
	for _, path := range []string{"", "/", "/proc", a.Dir, filepath.Join(a.Dir, "v") + "/..", filepath.Join(a.Dir, "v") + "/"} {
		_, err := a.GetVolumeStats(t.Context(), &agent.VolumeStatsRequest{VolumeGuestPath: path})
		if status.Code(err) != codes.NotFound {
			t.Errorf("%q: %v", path, err)
		}
	}
}
