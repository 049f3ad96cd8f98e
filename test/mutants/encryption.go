// SPDX-License-Identifier: Apache-2.0

package main

const (
	cryptLayer   = "imagecrypt/layer.go"
	cryptUnwrap  = "imagecrypt/unwrap.go"
	cryptOptions = "imagecrypt/options.go"
)

var encryption = of(8,
	never("HMAC of an encrypted layer", cryptLayer, "errors.Is(err, io.EOF) && !hmac.Equal(o.mac.Sum(nil), o.want)",
		"imagecrypt.TestAttackChangedCiphertext", "imagecrypt.TestAttackOtherLength", "imagecrypt.TestAttackSwappedAnnotations",
		"imagecrypt.TestAttackHMAC"),
	never("where a layer's nonce comes from", cryptOptions, "len(inner) > 0",
		"imagecrypt.TestAttackPublicNonce"),
	never("a layer's cipher", cryptOptions, "name != cipherName",
		"imagecrypt.TestAttackPublicOptions"),
	never("who wrapped a layer's key", cryptUnwrap, "p.Provider != ProviderKBS",
		"imagecrypt.TestAttackPacketOfAnotherProvider"),
	crashes("length of a layer's IV", cryptUnwrap, "len(p.IV) != size", "false",
		"imagecrypt.TestAttackIVOfAnotherLength"),
	never("length of the keys of layers", cryptUnwrap, "key.Len() != KeySize",
		"imagecrypt.TestAttackKeyOfAnotherLength"),
	never("number of a layer's packets", cryptLayer, "len(texts) > maxPackets",
		"imagecrypt.TestAttackManyPackets"),
)

// The owner's side: who may have her keys used.
var keyProviding = of(9,
	never("that a key provider is asked to unwrap", "internal/cli/imagekeyprovider.go", "!w.unwrap",
		"cli.TestAttackKeyProviderUnwrapsForAnybody"),
	never("where a key provider listens", "internal/cli/imagekeyprovider.go", "!address.Addr().IsLoopback() && !anywhere",
		"cli.TestAttackKeyProviderBeyondLoopback"),
)
