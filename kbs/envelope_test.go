// SPDX-License-Identifier: Apache-2.0

package kbs

import "testing"

func TestSealOpen(t *testing.T) {
	for _, algorithm := range []Algorithm{ECDHP256, ECDHP521, RSAOAEP256} {
		key, err := GenerateTEEKey(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Seal(key.Public(), []byte("password"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.Open(e)
		if err != nil || string(got.Reveal()) != "password" {
			t.Fatalf("%s: %v", algorithm, err)
		}
	}
}
