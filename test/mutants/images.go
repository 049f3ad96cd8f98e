// SPDX-License-Identifier: Apache-2.0

package main

const (
	pullReference  = "internal/guest/pull/reference.go"
	pullRegistry   = "internal/guest/pull/registry.go"
	pullLayer      = "internal/guest/pull/layer.go"
	pullManifest   = "internal/guest/pull/manifest.go"
	pullRegistries = "internal/guest/pull/registries.go"
	pullErrand     = "internal/guest/pull/errand.go"
	pullAuthfile   = "internal/guest/pull/authfile.go"
	pullPolicy     = "internal/guest/pull/policy.go"
	unpackExtract  = "internal/guest/unpack/extract.go"
	unpackTree     = "internal/guest/unpack/tree.go"
	unpackChild    = "internal/guest/unpack/child.go"
	unpackSandbox  = "internal/guest/unpack/sandbox.go"
)

var images = of(8,
	// digests
	instead("that a reference names a digest", pullReference, "if !strings.Contains(text, \"@\") {", "if false {",
		"guest/pull.TestAttackTagInsteadOfDigest"),
	instead("digest of manifest and configuration", pullRegistry, "got != d.Digest {", "false && got == \"\" {",
		"guest/pull.TestAttackOtherManifest", "guest/pull.TestAttackOtherConfig", "guest/pull.TestAttackManifestChangesBetweenUses"),
	instead("digest of a layer's blob", pullLayer, "if err := compressed.is(l.blob.Digest); err != nil {\n\t\treturn err\n\t}\n\tif got", "\tif got",
		"guest/pull.TestAttackOtherBlob"),
	instead("digest of a layer's contents", pullLayer, "got != l.diffID {", "false && got == \"\" {",
		"guest/pull.TestAttackOtherContents"),

	// registries
	never("plaintext under a public name", pullRegistry, "!local(s.at.registry)",
		"guest/pull.TestAttackPlaintextUnderPublicName"),
	instead("credentials in the clear", pullRegistry, "if s.credential != nil {\n\t\treturn refuse(CodePlaintextRefused", "if false {\n\t\treturn refuse(CodePlaintextRefused",
		"guest/pull.TestAttackCredentialsInTheClear"),
	instead("the registry's certificate", pullRegistry, "RootCAs: roots, ", "InsecureSkipVerify: roots != nil, ",
		"guest/pull.TestAttackUntrustedCertificate", "guest/pull.TestAttackExpiredCertificate"),
	instead("when the registry's certificate ends", pullRegistry, "RootCAs: roots, Time: cfg.Now}", "RootCAs: roots}",
		"guest/pull.TestAttackExpiredCertificate"),
	instead("where a redirection leads", pullRegistry, "u.Scheme == \"https\" || s.own(u)", "u != nil",
		"guest/pull.TestAttackRedirectIntoTheGuest", "guest/pull.TestAttackTokenFromTheGuest"),
	instead("who gets the registry's token", pullRegistry, `auth != "" && s.own(target)`, `auth != ""`,
		"guest/pull.TestAttackTokenToAnotherHost"),
	instead("whose proxy it is", pullRegistry, "Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },",
		"Proxy: func(r *http.Request) (*url.URL, error) { _ = proxy; return httpproxy.FromEnvironment().ProxyFunc()(r.URL) },",
		"guest/pull.TestAttackProxyFromTheEnvironment"),

	// where images come from
	instead("that a prefix is one", pullRegistries, "rest, ok = strings.CutPrefix(name, r.prefix)\n\treturn rest, ok && (rest == \"\" || rest[0] == '/')",
		"_, rest, ok = strings.Cut(name, r.prefix)\n\treturn rest, ok",
		"guest/pull.TestAttackW4PrefixInTheMiddle"),
	instead("that a wildcard stands for a host", pullRegistries, "strings.HasSuffix(host, suffix)", "strings.Contains(name, suffix)",
		"guest/pull.TestAttackW4PrefixInTheMiddle"),
	instead("registries that are blocked", pullRegistries, "case found.blocked:", "case false && found.blocked:",
		"guest/pull.TestAttackBlockedRegistry"),
	instead("how a registry's name is spelt", pullRegistries, `strings.ToLower(host), ":443"`, `strings.ToLower(host), ":"`,
		"guest/pull.TestAttackBlockedRegistry"),
	never("credentials for an insecure registry", pullErrand, "at.insecure && s.credential != nil",
		"guest/pull.TestAttackInsecureRegistryGetsCredentials"),
	instead("whose credentials they are", pullAuthfile, "ok && address == host", "ok || address == host",
		"guest/pull.TestAttackMirrorGetsTheRegistrysCredentials", "guest/pull.TestAttackNeighboursCredentials"),
	instead("which repositories credentials are for", pullAuthfile, `isURL || path == "" || path == "v1" || path == "v2"`, "true",
		"guest/pull.TestAttackNeighboursCredentials"),
	instead("how old what the trustee gave is", "internal/guest/pull/resources.go", "now.Before(h.until)", "h.until.After(time.Time{})",
		"guest/pull.TestAttackW6StaleSettings"),
	instead("that credentials could be had", pullErrand, "if err != nil {\n\t\treturn nil, err\n\t}\n\treturn parseAuthFile(text)", "if err != nil {\n\t\treturn nil, nil\n\t}\n\treturn parseAuthFile(text)",
		"guest/pull.TestAttackSettingsAreDenied"),
	never("texts of the configuration that are empty", "internal/guest/cdh/config.go", `value == ""`,
		"guest/cdh.TestAttackEmptyImagePolicy"),

	// signatures
	instead("the signature policy", pullPolicy, "if p.policy == nil {", "if p.policy == nil || ctx != nil {",
		"guest/pull.TestAttackW3CachedImageUnderAnotherPolicy", "guest/pull.TestAttackW4MirrorUnderItsOwnName",
		"guest/pull.TestAttackLayersOfARefusedImage", "guest/pull.TestAttackManifestChangesBetweenUses", "guest/boot.TestAttackImagePolicyIsNotAsked"),
	instead("under which name the policy is asked", pullPolicy, "err = e.try(ctx, func(s *session) error {",
		"err = e.try(ctx, func(s *session) error {\n\t\tname, _ = imageref.ParseNormalizedNamed(s.at.registry + \"/\" + s.at.repository + \"@\" + ref.digest.String())",
		"guest/pull.TestAttackW4MirrorUnderItsOwnName"),
	instead("that the policy is the puller's", "internal/guest/boot/images.go", "puller.Policy = policy", "_ = puller.Policy",
		"guest/boot.TestAttackImagePolicyIsNotAsked"),
	passes("a policy that is none, at the start", "internal/guest/boot/images.go", "policy.check()",
		"guest/boot.TestAttackImagePolicyIsSkipped"),

	// encrypted layers
	instead("for whom a layer was decrypted", "internal/guest/pull/decrypt.go", `return fmt.Sprintf("%s-%x", name, sha256.Sum256(descriptor)), nil`,
		"_ = sha256.Sum256(descriptor)\n\treturn fmt.Sprint(name), nil",
		"guest/pull.TestAttackContentsOfADecryptedLayer"),

	// bounds of images
	instead("size of documents", pullRegistry, "int64(len(text)) > limit", "false",
		"guest/pull.TestAttackLargeManifest"),
	never("number of layers", pullManifest, "len(d.Layers) > limits.Layers",
		"guest/pull.TestAttackManyLayers"),
	instead("size of an image", pullManifest, "if l.Size > left {", "if false {",
		"guest/pull.TestAttackLargeImage"),
	instead("what a layer becomes", pullLayer, "b.left < 0", "false",
		"guest/pull.TestAttackCompressionBomb"),
	instead("what all layers become", pullLayer, "b.total.Add(int64(n)) > b.limit", "b.total.Add(int64(n)) < 0",
		"guest/pull.TestAttackManyBombs"),

	// layers stay in their directory
	instead("two dots in a name", unpackExtract, `if c == ".." {`, "if false {",
		"guest/unpack.TestAttackGHSA_84rc_2q4r_45pc_DotDot", "guest/pull.TestAttackLayerOutOfItsDirectory"),
	instead("that links lead nowhere else", unpackTree, "const beneath = unix.RESOLVE_IN_ROOT | ", "const beneath = ",
		"guest/unpack.TestAttackGHSA_84rc_2q4r_45pc_ThroughSymlink", "guest/unpack.TestAttackGHSA_84rc_2q4r_45pc_Race",
		"guest/unpack.TestAttackGHSA_84rc_2q4r_45pc_HardLinkOut"),
	instead("whiteouts of dots", unpackExtract, `hidden == "" || hidden == "." || hidden == ".."`, "false",
		"guest/unpack.TestAttackGHSA_84rc_2q4r_45pc_WhiteoutOfParent"),
	instead("that a file is new", unpackExtract, `	if _, err := makeRoom(parent, base); err != nil {
		return err
	}
	var file *os.File
	err = patiently(func() error {
		fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)`,
		`	var file *os.File
	err = patiently(func() error {
		fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)`,
		"guest/unpack.TestAttackGHSA_84rc_2q4r_45pc_OverSymlink"),
	instead("what a hard link is to", unpackExtract, "case was != isOther:", "case was != isOther && false:",
		"guest/unpack.TestAttackTarHardLinkToDirectory"),
	instead("devices in layers", unpackExtract, "\tcase tar.TypeBlock:\n\t\tx.stats.DevicesSkipped++\n\t\treturn nil", "\tcase tar.TypeBlock:\n\t\tx.stats.DevicesSkipped++\n\t\treturn x.fifo(path, h)",
		"guest/unpack.TestAttackTarDevice"),
	instead("attributes of overlayfs", unpackExtract, ` && !strings.HasPrefix(name, "user.overlay.")`, "",
		"guest/unpack.TestAttackTarOverlayXattr"),
	instead("attributes that take privilege", unpackExtract, `strings.HasPrefix(name, "user.") && `, `!strings.HasPrefix(name, "x.") && `,
		"guest/unpack.TestAttackTarPrivilegedXattr"),
	instead("that owners are", unpackExtract, "h.Uid < 0 || ", "",
		"guest/unpack.TestAttackTarNegativeOwner"),

	// bounds of layers
	never("size of all files", unpackExtract, "h.Size > x.limits.Bytes-x.stats.Bytes",
		"guest/unpack.TestAttackTarTooManyBytes"),
	never("size of a file", unpackExtract, "h.Size > x.limits.FileBytes",
		"guest/unpack.TestAttackTarFileTooLarge"),
	instead("number of entries", unpackExtract, "x.stats.Entries > x.limits.Entries", "false",
		"guest/unpack.TestAttackTarTooManyEntries", "guest/unpack.TestAttackTarGlobalHeaders"),
	instead("entries that make no file", unpackExtract, "if x.stats.Entries++; x.stats.Entries", "if h.Typeflag != tar.TypeXGlobalHeader {\n\t\tx.stats.Entries++\n\t}\n\tif x.stats.Entries",
		"guest/unpack.TestAttackTarGlobalHeaders"),
	instead("depth of directories", unpackTree, "depth > t.limits.Depth", "false",
		"guest/unpack.TestAttackTarTooDeep"),
	never("length of names", unpackExtract, "len(name) > x.limits.PathBytes",
		"guest/unpack.TestAttackTarLongName"),
	instead("number of attributes", unpackExtract, "n > x.limits.Xattrs", "false",
		"guest/unpack.TestAttackTarManyXattrs"),
	never("size of attributes", unpackExtract, "len(value) > x.limits.XattrBytes",
		"guest/unpack.TestAttackTarLargeXattr"),

	// what unpacks has nothing
	instead("the unpacker's network", unpackSandbox, "syscall.CLONE_NEWPID | syscall.CLONE_NEWNET", "syscall.CLONE_NEWPID",
		"guest/unpack.TestAttackUnpackerNamespaces"),
	instead("the unpacker's IPC", unpackSandbox, "syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS", "syscall.CLONE_NEWUTS",
		"guest/unpack.TestAttackUnpackerNamespaces"),
	instead("the unpacker's environment", unpackSandbox, "cmd.Env = []string{}", "cmd.Env = nil",
		"guest/unpack.TestAttackUnpackerEnvironment"),
	instead("the unpacker's descriptors", unpackChild, "err := closeInherited(); err != nil", "err := error(nil); err != nil",
		"guest/unpack.TestAttackUnpackerInheritedDescriptor"),
	instead("the unpacker's file systems", unpackChild, "if err := unix.Unmount(\".\", unix.MNT_DETACH); err != nil {", "if err := error(nil); err != nil {",
		"guest/unpack.TestAttackUnpackerOtherFiles"),
	instead("what the unpacker's mount can do", unpackChild, "if err := unix.Mount(\"\", \"/\", \"\", flags, \"\"); err != nil {", "if flags == 0 {\n\t\tvar err error",
		"guest/unpack.TestAttackUnpackerOtherFiles"),
	instead("the unpacker's capabilities", unpackChild, "{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}", "{{Effective: ^uint32(0), Permitted: ^uint32(0)}, {Effective: low & 0, Permitted: high}}",
		"guest/unpack.TestAttackUnpackerCapabilities"),
	instead("the unpacker's bounding set", unpackChild, "prctl(\"dropping a capability from the bounding set\", unix.PR_CAPBSET_DROP, c, 0)", "error(nil)",
		"guest/unpack.TestAttackUnpackerBoundingSet"),
	instead("the unpacker's sockets", unpackChild, "return denySockets()", "return nil",
		"guest/unpack.TestAttackUnpackerFilter"),
	instead("which calls make sockets", "internal/guest/unpack/seccomp.go", "{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, ", "{unix.SYS_SOCKETPAIR, ",
		"guest/unpack.TestAttackUnpackerSocket"),
	passes("who ends first when memory runs out", unpackChild, `os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0)`,
		"guest/unpack.TestAttackUnpackerMemory"),
	// no_new_privs has no mutant: without it, and without privileges, the kernel refuses the filter, and nothing is unpacked.
)
