// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/initdata"
)

func TestParseCmdline(t *testing.T) {
	for text, want := range map[string]cmdline{
		"":                                       {},
		"console=ttyS0 quiet foo.bar=1 nacre":    {},
		"nacre.verity=a,b,1,2":                   {ours: true},
		"nacre.verity=a nacre.tee=simulated-snp": {ours: true, simulatedSNP: true},
	} {
		if got, err := parseCmdline(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"nacre.debug=1", "nacre.tee=simulated-tdx", "nacre.tee", "nacre.tee=",
		"nacre.tee=simulated-snp nacre.tee=simulated-snp", "nacre.verity=a nacre.verity=b", "nacre.", "nacre.Verity=a",
	} {
		if got, err := parseCmdline(text); codeOf(err) != CodeCmdlineInvalid {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// TestReport checks that the console line stays one line, whatever an error has in it.
func TestReport(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"code":     {refuse(CodePolicyInvalid, "line %d", 3), "nacre: refused code=policy_invalid line 3"},
		"wrapped":  {fmt.Errorf("doing: %w", refuse(CodeEntropy, "x")), "nacre: refused code=entropy doing: x"},
		"attester": {attest.Refuse(attest.CodeInitDataMismatch, nil, "other"), "nacre: refused code=init_data_mismatch "},
		"no code":  {errors.New("x"), "nacre: refused code=boot_failed x"},
		"two lines": {
			errors.New("a\nnacre: refused code=fake b\r\x1b[2J"),
			"nacre: refused code=boot_failed a nacre: refused code=fake b  [2J",
		},
		"long": {errors.New(strings.Repeat("ä", maxLine)), "nacre: refused code=boot_failed ä"},
	} {
		var out bytes.Buffer
		report(&out, c.err)
		text := out.String()
		if !strings.HasPrefix(text, "\n"+c.want) || strings.Count(text, "\n") != 2 || len(text) > maxLine+8 {
			t.Errorf("%s: %q", name, text)
		}
	}
}

// clockAt is a clock that stands at now, with an image built at the given time.
func clockAt(now, built time.Time) (*Clock, *time.Time) {
	c := newClock(Image{BuiltAt: built.Unix()})
	c.now = func() time.Time { return now }
	c.set = func(t time.Time) error {
		now = t
		return nil
	}
	return c, &now
}

func TestClock(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	built := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	year := 365 * 24 * time.Hour
	after := func(d time.Duration) time.Time { return built.Add(d) }
	for name, c := range map[string]struct {
		rtc    time.Time
		booted time.Time   // the clock after boot
		tokens []time.Time // verified ones, in order of arrival
		after  time.Time
		wrong  int // tokens that must be refused
	}{
		"right":           {rtc: after(time.Hour), booted: after(time.Hour), after: after(time.Hour)},
		"never set":       {rtc: time.Unix(0, 0), booted: built, after: built},
		"ten years early": {rtc: after(-10 * year), booted: built, tokens: []time.Time{after(year)}, after: after(year)},
		"ten years late": {
			rtc: after(10 * year), booted: after(10 * year), tokens: []time.Time{after(year)}, after: after(year),
		},
		"token older than the image": {
			rtc: after(year), booted: after(year), tokens: []time.Time{after(-time.Hour)}, after: after(year), wrong: 1,
		},
		"older token after a newer one": {
			rtc: built, booted: built, tokens: []time.Time{after(2 * time.Hour), after(time.Hour)}, after: after(2 * time.Hour),
			wrong: 1,
		},
		"token of just now": {
			rtc: after(time.Hour), booted: after(time.Hour), tokens: []time.Time{after(time.Hour - time.Second)},
			after: after(time.Hour),
		},
	} {
		clock, now := clockAt(c.rtc, built)
		if err := clock.raise(log); err != nil || !now.Equal(c.booted) {
			t.Errorf("%s: after boot %v, %v, want %v", name, now, err, c.booted)
		}
		wrong := 0
		for _, issued := range c.tokens {
			if clock.SetFromToken(issued) != nil {
				wrong++
			}
		}
		if !now.Equal(c.after) || wrong != c.wrong {
			t.Errorf("%s: at the end %v, %d tokens refused, want %v, %d", name, now, wrong, c.after, c.wrong)
		}
	}
}

func TestReadImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.json")
	for text, ok := range map[string]bool{
		`{"built_at":1764000000,"version":1}`: true, `{}`: false, `{"built_at":-5}`: false, `x`: false, ``: false,
	} {
		_ = os.WriteFile(path, []byte(text), 0o644)
		if img, err := readImage(path); (err == nil) != ok {
			t.Errorf("%q: %+v, %v", text, img, err)
		}
	}
}

// sysctls makes a tree like /proc/sys, in which every setting has another value than it shall have.
func sysctls(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, s := range settings {
		path := filepath.Join(root, s.path)
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		_ = os.WriteFile(path, []byte("something else\n"), 0o644)
	}
	return root
}

func TestLockDown(t *testing.T) {
	root := sysctls(t)
	if err := lockDown(root); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"kernel/modules_disabled": "1\n", "kernel/kexec_load_disabled": "1\n", "kernel/sysrq": "0\n",
		"kernel/core_pattern": "|/bin/false\n",
	} {
		if got, err := os.ReadFile(filepath.Join(root, path)); string(got) != want || err != nil {
			t.Errorf("%s is %q, %v", path, got, err)
		}
	}
	for _, s := range settings {
		path := filepath.Join(root, s.path)
		_ = os.Remove(path)
		if err := lockDown(root); (err == nil) != s.optional {
			t.Errorf("without %s: %v", s.path, err)
		}
		_ = os.WriteFile(path, nil, 0o644)
	}
	// A setting that does not take its value is an error, not a wish.
	_ = os.Remove(filepath.Join(root, "kernel/sysrq"))
	if err := os.Symlink("/dev/null", filepath.Join(root, "kernel/sysrq")); err != nil {
		t.Fatal(err)
	}
	if err := lockDown(root); err == nil || !strings.Contains(err.Error(), "kernel/sysrq stays") {
		t.Errorf("a setting that stays as it is: %v", err)
	}
}

// TestAttackRouterAdvertisement is a host that sends addresses and routes past the policy, to an interface that was
// there before the settings were made.
func TestAttackRouterAdvertisement(t *testing.T) {
	root := sysctls(t)
	var files []string
	for _, name := range []string{
		"net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/eth0/accept_redirects", "net/ipv4/conf/eth0/accept_redirects",
	} {
		file := filepath.Join(root, name)
		_ = os.MkdirAll(filepath.Dir(file), 0o755)
		_ = os.WriteFile(file, []byte("1\n"), 0o644)
		files = append(files, file)
	}
	if err := lockDown(root); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if got, err := os.ReadFile(file); string(got) != "0\n" || err != nil {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
}

func TestEntropy(t *testing.T) {
	for name, c := range map[string]struct {
		current, quality string
		readonly         bool
		ok               bool
	}{
		"no generator":        {"", "", false, true},
		"none current":        {"none\n", "", false, true},
		"virtio":              {"virtio_rng.0\n", "1000\n", false, true},
		"credit not writable": {"virtio_rng.0\n", "1000\n", true, false},
	} {
		root := t.TempDir()
		misc, modules := filepath.Join(root, "misc"), filepath.Join(root, "module")
		_ = os.MkdirAll(filepath.Join(misc, "hw_random"), 0o755)
		_ = os.MkdirAll(filepath.Join(modules, "rng_core/parameters"), 0o755)
		if c.current != "" {
			_ = os.WriteFile(filepath.Join(misc, "hw_random/rng_current"), []byte(c.current), 0o644)
		}
		quality := filepath.Join(modules, "rng_core/parameters/current_quality")
		if c.readonly {
			_ = os.Mkdir(quality, 0o755)
		} else if c.quality != "" {
			_ = os.WriteFile(quality, []byte(c.quality), 0o644)
		}
		if err := entropyReady(misc, modules); (err == nil) != c.ok || err != nil && codeOf(err) != CodeEntropy {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := os.ReadFile(quality); c.ok && c.quality != "" && string(got) != "0\n" {
			t.Errorf("%s: the credit is %q", name, got)
		}
	}
}

const initText = `version = "0.1.0"
algorithm = "sha256"
[data]
"policy.rego" = '''package agent_policy'''
`

// drives makes trees like /sys/class/block and /dev with these drives.
func drives(t *testing.T, contents map[string][]byte) (classBlock, dev string) {
	t.Helper()
	root := t.TempDir()
	classBlock, dev = filepath.Join(root, "block"), filepath.Join(root, "dev")
	_ = os.MkdirAll(classBlock, 0o755)
	_ = os.MkdirAll(dev, 0o755)
	for name, content := range contents {
		_ = os.MkdirAll(filepath.Join(classBlock, name), 0o755)
		if strings.HasSuffix(name, "1") {
			_ = os.WriteFile(filepath.Join(classBlock, name, "partition"), []byte("1\n"), 0o644)
		}
		_ = os.WriteFile(filepath.Join(dev, name), content, 0o644)
	}
	return classBlock, dev
}

func device(t testing.TB, text string) []byte {
	t.Helper()
	content, err := initdata.EncodeDevice([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestFindInitData(t *testing.T) {
	good := device(t, initText)
	damaged := bytes.Clone(good)
	damaged[30] ^= 0xff
	disk := make([]byte, 4096)
	endless := append([]byte("initdata\xff\xff\xff\xff\xff\xff\xff\x7f"), disk...)
	for name, c := range map[string]struct {
		drives map[string][]byte
		want   string
		code   Code
	}{
		"no drive":              {nil, "", ""},
		"no carrier":            {map[string][]byte{"vda": disk, "sda": nil}, "", ""},
		"one":                   {map[string][]byte{"vda": disk, "vdb": good}, initText, ""},
		"scsi":                  {map[string][]byte{"sdc": good}, initText, ""},
		"a partition":           {map[string][]byte{"vda": disk, "vda1": good}, "", ""},
		"other kinds of drives": {map[string][]byte{"nvme0n0": good, "loop0": good, "sr0": good}, "", ""},
		"two":                   {map[string][]byte{"vdb": good, "vdc": good}, "", CodeInitDataDevice},
		"two kinds":             {map[string][]byte{"vdb": good, "sda": good}, "", CodeInitDataDevice},
		"good and damaged":      {map[string][]byte{"vdb": good, "vdc": damaged}, "", CodeInitDataDevice},
		"damaged":               {map[string][]byte{"vdb": damaged}, "", CodeInitDataDevice},
		"cut off":               {map[string][]byte{"vdb": good[:64]}, "", CodeInitDataDevice},
		"endless":               {map[string][]byte{"vdb": endless}, "", CodeInitDataDevice},
	} {
		got, err := findInitData(drives(t, c.drives))
		if string(got) != c.want || (err != nil) != (c.code != "") || err != nil && codeOf(err) != c.code {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	many := map[string][]byte{}
	for i := range maxDrives + 1 {
		many[fmt.Sprintf("vd%dx", i)] = nil
	}
	if _, err := findInitData(drives(t, many)); codeOf(err) != CodeInitDataDevice {
		t.Errorf("many drives: %v", err)
	}
}

// launched is a platform that was launched with this init-data digest, nil for none.
type launched struct{ digest []byte }

func (launched) TEE() attest.TEE { return attest.SNP }
func (launched) Simulated() bool { return true }
func (launched) Evidence(context.Context, []byte) (json.RawMessage, error) {
	return nil, errors.New("not asked for here")
}
func (l launched) BindInitData(_ context.Context, digest []byte) error {
	if !bytes.Equal(l.digest, digest) {
		return attest.Refuse(attest.CodeInitDataMismatch, nil, "launched with %x, got %x", l.digest, digest)
	}
	return nil
}

func TestAttackInitDataBindingGHSA_989w_4xr2_ww9m(t *testing.T) {
	digest, err := initdata.Digest([]byte(initText))
	if err != nil {
		t.Fatal(err)
	}
	flipped := strings.Replace(initText, "agent_policy", "agent_policx", 1)
	recoded := initText + "# a comment\n"
	for name, c := range map[string]struct {
		launched []byte
		text     string
		none     bool
		code     Code
	}{
		"bound":                     {digest, initText, false, ""},
		"none, launched with none":  {nil, "", true, ""},
		"absent":                    {digest, "", true, CodeInitDataMismatch},
		"launched with none":        {nil, initText, false, CodeInitDataMismatch},
		"one letter":                {digest, flipped, false, CodeInitDataMismatch},
		"the same meaning":          {digest, recoded, false, CodeInitDataMismatch},
		"empty":                     {digest, "", false, CodeInitDataInvalid},
		"repeated key":              {digest, initText + "[data]\n", false, CodeInitDataInvalid},
		"unknown algorithm":         {digest, strings.Replace(initText, "sha256", "md5", 1), false, CodeInitDataInvalid},
		"other algorithm, launched": {digest, strings.Replace(initText, "sha256", "sha512", 1), false, CodeInitDataMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			raw := []byte(c.text)
			if c.none {
				raw = nil
			}
			data, err := bindInitData(t.Context(), launched{c.launched}, raw)
			if (err != nil) != (c.code != "") || err != nil && codeOf(err) != c.code {
				t.Errorf("%v", err)
			}
			if (data != nil) != (c.code == "" && !c.none) {
				t.Errorf("data %v", data)
			}
		})
	}
}

// TestAttackInitDataWithoutPlatform gives init-data to a guest that nothing vouches for.
func TestAttackInitDataWithoutPlatform(t *testing.T) {
	if _, err := bindInitData(t.Context(), nil, []byte(initText)); codeOf(err) != CodeInitDataUnbound {
		t.Errorf("got %v", err)
	}
	if data, err := bindInitData(t.Context(), nil, nil); data != nil || err != nil {
		t.Errorf("without init-data: %v, %v", data, err)
	}
}

// TestGateFromInitData checks whose policy holds, and that one that is none ends the boot.
func TestGateFromInitData(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	policy := func(rego string) *guest {
		return &guest{log: log, data: &initdata.Data{Files: map[string]string{initdata.AgentPolicy: rego}}}
	}
	own, err := policy("package agent_policy\n").gate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := policy("package agent_policy\nStartContainerRequest := true\n").gate(t.Context())
	if err != nil || own.PolicyDigest() == other.PolicyDigest() {
		t.Errorf("two policies: %v", err)
	}
	for _, rego := range []string{"", "no rego", "package agent_policy\nx := http.send({})", strings.Repeat("#", 3<<20)} {
		if _, err := policy(rego).gate(t.Context()); codeOf(err) != CodePolicyInvalid {
			t.Errorf("%.40q: %v", rego, err)
		}
	}
}

// TestCalledByHand keeps people, and process 1 of a container, from running what locks a machine down.
func TestCalledByHand(t *testing.T) {
	if bootedForUs() {
		t.Error("this machine says that it was booted for us")
	}
}
