// SPDX-License-Identifier: Apache-2.0

package main

const (
	storeKey        = "internal/trustee/store/key.go"
	storeGo         = "internal/trustee/store/store.go"
	attackKeyFile   = "trustee/store.TestAttackKeyFileBelowTheDataDirectory/"
	attackOpenFiles = "trustee/store.TestAttackOpenFiles/"
	attackMove      = "trustee/store.TestAttackMoveASealedValue/"
)

var secrets = of(9,
	instead("that values are sealed", storeKey, `	return s.aead.Seal(make([]byte, 0, len(value)+s.aead.Overhead()), nil, value, place(kind, ns, key))
}

func (s sealer) open(kind string, ns Namespace, key string, sealed []byte) ([]byte, error) {
	value, err := s.aead.Open(nil, nil, sealed, place(kind, ns, key))
`, `	return append(append([]byte{}, value...), make([]byte, s.aead.Overhead())...)
}

func (s sealer) open(kind string, ns Namespace, key string, sealed []byte) ([]byte, error) {
	value, err := sealed[:len(sealed)-s.aead.Overhead()], error(nil)
`,
		"trustee/store.TestAttackReadTheDataDirectory", attackMove+"*"),
	instead("that the key lies elsewhere", storeKey, "if os.SameFile(info, data) {", "if false && os.SameFile(info, data) {",
		attackKeyFile+"at", attackKeyFile+"below", attackKeyFile+"through ..", attackKeyFile+"linked directory", attackKeyFile+"linked data",
		attackKeyFile+"linked file"),
	instead("where links to the key lead", storeKey, "real, err := filepath.EvalSymlinks(keyFile)", "_, err = os.Stat(keyFile)\n\treal := keyFile",
		attackKeyFile+"linked file"),
	never("who can read the key", storeKey, "info.Mode().Perm()&0o077 != 0",
		attackOpenFiles+"a key file that others can read", attackOpenFiles+"a key file that its group can read"),
	never("who can read the data", storeGo, "info.Mode().Perm()&0o077 != 0",
		attackOpenFiles+"a data directory that others can read"),
	instead("the table of a sealed value", storeKey, "{kind, string(ns), key} {", "{\"\", string(ns), key} {",
		attackMove+"another table"),
	instead("the namespace of a sealed value", storeKey, "{kind, string(ns), key} {", "{kind, \"\", key} {",
		attackMove+"another namespace"),
	instead("the key of a sealed value", storeKey, "{kind, string(ns), key} {", "{kind, string(ns), \"\"} {",
		attackMove+"another key"),
)
