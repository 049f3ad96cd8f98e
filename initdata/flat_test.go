// SPDX-License-Identifier: Apache-2.0

package initdata_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/initdata"
)

// Texts that anybody can send, and that would become a table a few bytes of theirs.
func TestAttackDeepText(t *testing.T) {
	const head = "version = '0.1.0'\nalgorithm = 'sha256'\n"
	parts := strings.Repeat(".a", initdata.MaxSize/2-100)
	for name, text := range map[string]string{
		"a long key":        head + "a" + parts + " = 1\n",
		"a long data key":   head + "data" + parts + " = ''\n",
		"a long table":      head + "[a" + parts + "]\n",
		"many tables":       head + strings.Repeat("[[a.a.a]]\n", 100_000),
		"inline":            head + "data = {a" + parts + " = ''}\n",
		"inline, deeper":    head + "data = {a = {b = ''}}\n",
		"in a list":         head + "data = [{a" + parts + " = ''}]\n",
		"three parts":       head + "data.a.b = ''\n",
		"an inline dot":     head + "data = {a.b = ''}\n",
		"an inline number":  head + "data = {a = 1}\n",
		"tables in a table": head + "[data.a.b]\n",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := initdata.Parse([]byte(text))
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("parsed")
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 100*initdata.MaxSize {
				t.Errorf("%d bytes allocated for a text of %d", got, len(text))
			} else {
				t.Logf("%d KiB allocated", got>>10)
			}
		})
	}
}
