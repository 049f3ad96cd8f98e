// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"errors"
	"strings"
	"testing"
)

var root = strings.Repeat("0123456789abcdef", 4)

func TestFromCmdline(t *testing.T) {
	value := root + ",00ff,10"
	p, err := FromCmdline("quiet nacre.verity=" + value + " panic=-1\n")
	if err != nil {
		t.Fatal(err)
	}
	if p.String() != value || p.DataBlocks != 10 || len(p.Salt) != 2 {
		t.Errorf("parsed %+v", p)
	}
	if _, err := FromCmdline("quiet xnacre.verity=" + value); !errors.Is(err, ErrMissing) {
		t.Errorf("no parameter: %v", err)
	}
	if _, err := FromCmdline("nacre.verity=" + value + " nacre.verity=" + value); err == nil {
		t.Error("two parameters are accepted")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, value := range map[string]string{
		"empty":        "",
		"two fields":   root + ",00",
		"four fields":  root + ",00,1,2",
		"short root":   root[2:] + ",00,1",
		"long root":    root + "00,00,1",
		"not hex":      "x" + root[1:] + ",00,1",
		"odd salt":     root + ",0,1",
		"long salt":    root + "," + strings.Repeat("00", maxSalt+1) + ",1",
		"no blocks":    root + ",00,0",
		"many blocks":  root + ",00,16777217",
		"minus":        root + ",00,-1",
		"overflow":     root + ",00,18446744073709551616",
		"not a number": root + ",00,1x",
	} {
		if p, err := Parse(value); err == nil {
			t.Errorf("%s: accepted as %+v", name, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(root + ",00ff,10")
	f.Add(root + ",,1")
	f.Add(",,")
	f.Fuzz(func(t *testing.T, value string) {
		p, err := Parse(value)
		if err != nil {
			return
		}
		again, err := Parse(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("%q: parsed %v, then %v, %v", value, p, again, err)
		}
	})
}
