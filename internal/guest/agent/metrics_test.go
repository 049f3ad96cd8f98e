// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	"github.com/nacre-project/nacre/api/agent"
)

const rollup = `00400000-7ffd1d3f1000 ---p 00000000 00:00 0                              [rollup]
Rss:                4096 kB
Pss:                3000 kB
Pss_Dirty:          2000 kB
Pss_Anon:           2048 kB
Pss_File:            952 kB
Pss_Shmem:             0 kB
`

func TestProportionalSet(t *testing.T) {
	for name, c := range map[string]struct {
		text            string
		anonymous, file uint64
		ok              bool
	}{
		"a process":        {rollup, 2048 << 10, 952 << 10, true},
		"nothing":          {"", 0, 0, false},
		"an old kernel":    {"Rss: 1 kB\nPss: 1 kB\n", 0, 0, false},
		"one of the two":   {strings.Replace(rollup, "Pss_File", "Pss_Other", 1), 0, 0, false},
		"not a number":     {strings.Replace(rollup, "952", "many", 1), 0, 0, false},
		"a number too big": {strings.Replace(rollup, "952", "18446744073709551615", 1), 0, 0, false},
	} {
		anonymous, file, err := proportionalSet(c.text)
		if (err == nil) != c.ok || c.ok && (anonymous != c.anonymous || file != c.file) {
			t.Errorf("%s: %d, %d, %v", name, anonymous, file, err)
		}
	}
}

func TestGetMetrics(t *testing.T) {
	m, err := (&Agent{}).GetMetrics(t.Context(), &agent.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`nacre_guest_pss_bytes{kind="anonymous"} `, `nacre_guest_pss_bytes{kind="file"} `, "nacre_guest_goroutines ",
	} {
		if !strings.Contains(m.GetMetrics(), "\n"+want) {
			t.Errorf("%q lacks %q", m.GetMetrics(), want)
		}
	}
}
