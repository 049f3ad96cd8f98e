// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nacre-project/nacre/internal/guestos"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"nacre": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// The stories that need neither a trustee nor a guest. [image] says that a guest image was built.
func TestScripts(t *testing.T) {
	image, err := filepath.Abs("../../build/image")
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("NACRE_IMAGE_DIR"); dir != "" {
		image = dir
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"} {
				e.Setenv(name, filepath.Join(e.WorkDir, name))
			}
			e.Setenv("IMAGE", image)
			return nil
		},
		Condition: func(condition string) (bool, error) {
			_, err := guestos.Load(image)
			return condition == "image" && err == nil, nil
		},
	})
}
