// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nacre-project/nacre/internal/trustee/audit"
	"github.com/nacre-project/nacre/internal/trustee/store"
)

// The stories of moving here from another trustee. The command `stored` prints what the store below data/ holds.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"stored": func(ts *testscript.TestScript, _ bool, _ []string) { stored(t.Context(), ts) },
		},
	})
}

func stored(ctx context.Context, ts *testscript.TestScript) {
	s, err := store.Open(ctx, store.Options{Dir: ts.MkAbs("data"), KeyFile: ts.MkAbs("key")})
	ts.Check(err)
	for _, namespace := range []store.Namespace{"repository", "reference_value", "kbs", "attestation_service_policy"} {
		list, err := s.List(ctx, namespace, "", "", 100)
		ts.Check(err)
		for _, info := range list {
			value, err := s.Get(ctx, namespace, info.Key)
			ts.Check(err)
			_, err = ts.Stdout().Write([]byte(filepath.Join(string(namespace), info.Key) + " = " + string(value) + "\n"))
			ts.Check(err)
		}
	}
	_, _, err = audit.Verify(ctx, s)
	ts.Check(err)
	records, err := audit.List(ctx, s, 0, 100)
	ts.Check(err)
	for _, r := range records {
		line, err := json.Marshal(r.Detail)
		ts.Check(err)
		_, err = ts.Stdout().Write(append(line, '\n'))
		ts.Check(err)
	}
	ts.Check(s.Close())
}
