// SPDX-License-Identifier: Apache-2.0

package pictures

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPicturesAreMadeOfTheirSources(t *testing.T) {
	sources, err := filepath.Glob("*.dot")
	if err != nil || len(sources) < 2 {
		t.Fatalf("want two sources or more, found %v (%v)", sources, err)
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		svg, err := os.ReadFile(strings.TrimSuffix(source, ".dot") + ".svg")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(svg, fmt.Appendf(nil, "made of %s, sha256 %x", source, sha256.Sum256(text))) {
			t.Errorf("the picture of %s is stale: run make generate", source)
		}
	}
}
