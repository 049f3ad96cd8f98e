// SPDX-License-Identifier: Apache-2.0

package main

const (
	transportFrame    = "internal/transport/frame.go"
	transportSession  = "internal/transport/session.go"
	transportStream   = "internal/transport/stream.go"
	agentNetwork      = "internal/guest/agent/network.go"
	agentEnd          = "internal/guest/agent/termination.go"
	agentNeighbours   = "internal/guest/agent/neighbours.go"
	agentSpec         = "internal/guest/agent/spec.go"
	agentVolume       = "internal/guest/agent/volume.go"
	agentContainer    = "internal/guest/agent/container.go"
	agentSandbox      = "internal/guest/agent/sandbox.go"
	agentLimit        = "internal/guest/agent/limit.go"
	attackDeep        = "initdata.TestAttackDeepText/"
	attackOut         = "policy.TestAttackPolicyReachesOut/"
	attackHost        = "transport.TestAttackHostFrames/"
	attackGuest       = "transport.TestAttackGuestFrames/"
	attackInterface   = "guest/agent.TestAttackInterface/"
	attackRoute       = "guest/agent.TestAttackRoute/"
	attackCaps        = "guest/agent.TestAttackCaps/"
	attackEnd         = "guest/agent.TestAttackTermination/"
	attackNeighbour   = "guest/agent.TestAttackNeighbour/"
	attackSpec        = "guest/agent.TestAttackSpec/"
	attackVolumes     = "guest/agent.TestAttackVolumes/"
	attackCreate      = "guest/agent.TestAttackCreate/"
	attackSandbox     = "guest/agent.TestAttackSandbox/"
	attackTermination = "guest/agent.TestAttackTermination/"
	attackFrames      = "guest/agent.TestAttackFrames/"
	simteeProtocol    = "attest/simtee/protocol.go"
	brokerLimits      = "internal/trustee/broker/limits.go"
	limitRefusals     = "internal/trustee/limit/refusals.go"
	limitShares       = "internal/trustee/limit/shares.go"
)

var bounds = of(5,
	// the broker, as the guest knows it
	instead("the pinned certificate", "kbs/pin.go", "RootCAs:    roots,", "RootCAs:    roots, InsecureSkipVerify: true,",
		"kbs.TestAttackBrokerWithAnotherKey", "kbs.TestAttackBrokerSignedByThePinnedLeaf"),
	instead("the system's roots, where nothing is pinned", kbsWire, "&tls.Config{MinVersion: tls.VersionTLS12}", "&tls.Config{InsecureSkipVerify: true}",
		"kbs.TestAttackUnpinnedBroker", "guest/cdh.TestAttackAnotherBroker"),
	instead("the version of TLS", "kbs/pin.go", "MinVersion: tls.VersionTLS12", "MinVersion: tls.VersionTLS10",
		"kbs.TestAttackOldTLS"),
	instead("that there is TLS", kbsWire, `base.Scheme == "http" && !config.UnsafeHTTP`, "false",
		"kbs.TestAttackPlainHTTP"),
	instead("where a redirection leads", kbsWire, "http.ErrUseLastResponse }", "nil }",
		"kbs.TestAttackRedirect"),
	instead("how long an answer is", kbsWire, "io.LimitReader(response.Body, MaxResponseSize+1)", "response.Body",
		"kbs.TestAttackEndlessAnswer"),
	instead("whose time it is", "internal/guest/aa/service.go", "len(s.options.Config.Broker.PinnedCert) > 0 && ", "",
		"guest/aa.TestAttackTimeFromUnpinnedBroker"),
	instead("how often a guest attests", "internal/guest/aa/service.go", "!s.limiter.AllowN(asked, 1)", "false",
		"guest/aa.TestAttackManyAttestations"),

	// init-data's carriers
	instead("how long the text becomes", "initdata/carrier.go", "io.LimitReader(zr, MaxSize+1)", "zr",
		"initdata.TestAttackCompressionBomb"),

	passes("how deep the text is", "initdata/initdata.go", "flat(raw)",
		attackDeep+"a long key", attackDeep+"a long data key", attackDeep+"a long table", attackDeep+"inline", attackDeep+"in a list"),

	// the simulated processor, from both sides
	instead("size of its certificate table", simteeProtocol, "case table > snp.MaxCertTableSize:", "case false:",
		"attest/simtee.TestAttackResponse/a table beyond all bounds"),
	instead("size of its report", simteeProtocol, "case r.Status == StatusOK && report != snp.ReportSize:", "case false:",
		"attest/simtee.TestAttackResponse/a report of another size"),
	instead("that a refusal is nothing else", simteeProtocol, "case r.Status != StatusOK && (report != 0 || table != 0):", "case false:",
		"attest/simtee.TestAttackResponse/a refusal with a table"),
	never("that it is its answer", simteeProtocol, "!bytes.Equal(header[:4], []byte(responseMagic))",
		"attest/simtee.TestAttackResponse/another protocol"),
	never("that it is a request", simteeProtocol, "string(b[:4]) != RequestMagic",
		"attest/simtee.TestAttackRequest/another protocol"),
	never("size of a request", simteeProtocol, "len(b) != RequestSize",
		"attest/simtee.TestAttackRequest/more than a request"),
	instead("version of a request", simteeProtocol, "v != version", "false",
		"attest/simtee.TestAttackRequest/another version"),
	never("VMPL of a request", simteeProtocol, "r.VMPL > MaxVMPL",
		"attest/simtee.TestAttackRequest/a lower level than there is"),

	// policies, whose text may be the host's
	instead("what a policy may call", "policy/capabilities.go", "b.Nondeterministic || !known || slices.Contains(refused, b.Name)", "false && known",
		attackOut+"http.send", attackOut+"net.lookup ip addr", attackOut+"opa.runtime", attackOut+"rand.intn", attackOut+"uuid.rfc4122",
		attackOut+"io.jwt.decode", attackOut+"crypto.*", attackOut+"json.match schema", attackOut+"trace", attackOut+"rego.parse module",
		attackOut+"providers.aws.sign req", attackOut+"graphql.is valid", attackOut+"strings.render template",
		"trustee/release.TestAttackPolicyWhenSet/the network"),
	instead("what else a policy may call", "policy/capabilities.go", "|| slices.Contains(refused, b.Name)", "",
		attackOut+"crypto.parse private keys",
		"policy.TestAttackPolicyReachesOut/trace",
		"policy.TestAttackPolicyReachesOut/strings.render template"),
	instead("the clock", "policy/capabilities.go", "return options.Clock == nil", "return false",
		"policy.TestAttackPolicyReachesOut/time.now ns",
		"trustee/release.TestAttackRememberedDecision/when its time is over"),
	instead("that data is not the policy", "policy/policy.go", `Child(ast.String(name)) != nil`, `Child(ast.String(name)) == nil && false`,
		"policy.TestAttackDataOverridesPolicy"),

	// the stream between host and guest
	instead("which frames there are", transportFrame, "case !known:", "case !known && false:",
		attackHost+"unknown type"),
	instead("streams that were never opened", transportSession, "f.stream > last {", "f.stream > last && false {",
		attackHost+"data before open", attackGuest+"stream never opened"),
	instead("that streams are numbered upwards", transportSession, "f.stream <= s.last", "false",
		attackHost+"stream id goes back", attackHost+"stream id twice"),
	instead("how many streams there are", transportSession, "len(s.streams) >= MaxStreams {", "len(s.streams) >= MaxStreams+1 {",
		"transport.TestAttackManyStreams"),
	instead("who opens streams", transportSession, `return violation("the guest opened a stream")`, "return nil",
		attackGuest+"guest opens a stream"),
	instead("that a stream is accepted once", transportSession, "if st.accepted {", "if false {",
		attackGuest+"accepted twice"),
	never("that a stream was accepted", transportSession, "s.open == nil && !st.isAccepted()",
		attackGuest+"data before accept"),
	instead("the window", transportStream, "case s.in.len()+int(s.consumed)+len(f.payload) > Window:", "case false:",
		attackHost+"window exceeded"),
	instead("the other side's window", transportStream, "n == 0 || uint64(s.window)+uint64(n) > Window", "n == 0",
		attackHost+"window opened too far"),
	instead("that a window opens", transportStream, "n == 0 || uint64(s.window)+uint64(n) > Window", "uint64(s.window)+uint64(n) > Window",
		attackHost+"window of nothing"),
	instead("data after the end", transportStream, "case s.eof:\n\t\t\treturn violation(\"data", "case false:\n\t\t\treturn violation(\"data",
		attackHost+"data after close-write"),
	instead("a second end", transportStream, "if s.eof {", "if false {",
		attackHost+"close-write twice"),
	crashes("that data is some", transportFrame, "(size == 0 || size > MaxPayload)", "size > MaxPayload",
		attackHost+"empty data"),
	crashes("the size of data", transportFrame, "(size == 0 || size > MaxPayload)", "size == 0",
		attackHost+"payload too long"),

	// the trustee
	instead("that who is refused too often waits", brokerLimits, "if wait <= 0 {", "if wait <= 0 || true {",
		"trustee/broker.TestAttackRefusalsWithoutEnd/*", "trustee/broker.TestAttackAnotherAddressEachTime"),
	instead("whose forwarded address counts", "internal/trustee/limit/client.go",
		"len(o.proxies) == 0 || len(forwarded) == 0 || !o.listed(addr) {", "len(forwarded) == 0 {",
		"trustee/limit.TestAttackForwardedAddress/no proxy is configured",
		"trustee/limit.TestAttackForwardedAddress/not through the proxy",
		"trustee/broker.TestAttackAnotherAddressEachTime"),
	instead("which debts are forgotten", limitRefusals, "if !paid.After(now) {", "if paid != now {",
		"trustee/limit.TestAttackForgettingDebts", "trustee/limit.TestAttackManyAddresses"),
	instead("how many clients are told apart", limitRefusals, "if len(r.paid) < r.clients {\n\t\tr.paid[client]",
		"if r.clients > 0 {\n\t\tr.paid[client]",
		"trustee/limit.TestAttackManyAddresses"),
	instead("one client's share", limitShares, "n > s.free || held+n > s.each", "n > s.free",
		"trustee/limit.TestAttackTakeAll/more than its share",
		"trustee/broker.TestAttackBodiesWithoutEnd/another large one",
		"trustee/broker.TestAttackRequestsWithoutEnd/one more"),
	instead("all clients' shares", limitShares, "n > s.free || held+n > s.each", "held+n > s.each",
		"trustee/limit.TestAttackTakeAll/more than there is"),
	instead("memory for bodies", brokerLimits, "if !m.call.bodies.Take(m.call.client, bodyBlock) {", "if bodyBlock == 0 {",
		"trustee/broker.TestAttackBodiesWithoutEnd/another large one"),
	instead("how many requests are answered at the same time", brokerLimits, "if !b.limits.requests.Take(c.client, 1) {", "if c.client == c.client && false {",
		"trustee/broker.TestAttackRequestsWithoutEnd/one more"),
	instead("how many connections one client has", "internal/trustee/limit/listener.go", "if !l.Each.Take(client, 1) {", "if l.Each == nil {",
		"cmd/nacre-trustee.TestAttackAllConnections/a third"),
	instead("how often a session is tried", brokerAttest, "if !b.attempts.Spend(s.key(), b.now()) {", "if b.attempts == nil {",
		"trustee/broker.TestAttackSessionConfusion/attempts without end"),
	instead("how many intermediates are looked at", snpChain, "len(asks) < maxSuppliedASKs", "len(asks) < 1<<10",
		"attest/snp.TestAttackManyIntermediates/2 before the right one"),
	instead("under what a chain is remembered", snpChain, "chainKey(asked, kind, endorsing, came), c)",
		"chainKey(asked, kind, endorsing, fmt.Appendf(came, \"%x\", supplied)), c)",
		"attest/snp.TestAttackForgettingChains"),
	instead("how many connections are open", "cmd/nacre-trustee/serve.go", "LimitListener(listener, s.MaxConnections)",
		"LimitListener(listener, s.MaxConnections+1<<10)",
		"cmd/nacre-trustee.TestAttackManyConnections"),
	instead("how long a request for a challenge is", brokerAttest, "c.limit = min(c.limit, kbs.MaxRequestSize)", "c.limit = max(c.limit, 0)",
		"trustee/broker.TestAttackLongRequestForAChallenge"),
	instead("how long a token is", brokerAttest, "err == nil && len(token) > maxToken", "err == nil && false",
		"trustee/broker.TestAttackTokenTooLongForAHeader"),
	instead("that all is read before others wait", brokerAttest, `	body, err := c.body()
	if err != nil {
		return nil, err
	}
	free, err := b.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
`, `	free, err := b.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	body, err := c.body()
	if err != nil {
		return nil, err
	}
`,
		"trustee/broker.TestAttackKeepingASlot"),

	// the agent's connections
	instead("which frames the server expects", agentLimit, "kind != frameRequest", "false",
		attackFrames+"response", attackFrames+"unknown type"),
	instead("how many requests are in flight", agentLimit, "l.requests >= maxInFlight || l.size+int(length) > maxInFlightSize", "l.size+int(length) > maxInFlightSize",
		attackFrames+"too many requests"),
	instead("how large they are together", agentLimit, "l.requests >= maxInFlight || l.size+int(length) > maxInFlightSize", "l.requests >= maxInFlight",
		attackFrames+"too heavy requests"),

	// the pod's network
	instead("the loopback's name", agentNetwork, `name != "lo" && `, "",
		attackInterface+"loopback's name", attackRoute+"loopback device", attackNeighbour+"loopback's device"),
	never("the loopback's addresses", agentNetwork, "address.IsLoopback() || address.Is4() && address.As4()[0] == 127",
		attackInterface+"loopback", attackInterface+"loopback network", attackInterface+"loopback v6",
		attackRoute+"loopback gateway", attackRoute+"loopback source", attackRoute+"loopback source v6",
		attackNeighbour+"loopback", attackNeighbour+"loopback v6"),
	never("addresses in another's notation", agentNetwork, "address.Is4In6()",
		attackInterface+"mapped", attackNeighbour+"mapped"),
	never("routes to the loopback", agentNetwork, "dest.Bits() > 0 && (dest.Overlaps(loopback4) || dest.Overlaps(loopback6))",
		attackRoute+"loopback", attackRoute+"part of loopback", attackRoute+"around loopback", attackRoute+"loopback v6"),
	never("the hardware address", agentNetwork, `len(hardware) != 6 || hardware[0]&1 != 0 || hardware.String() == "00:00:00:00:00:00"`,
		attackInterface+"zero hardware", attackInterface+"broadcast hardware", attackInterface+"long hardware",
		attackNeighbour+"broadcast hardware"),
	never("which addresses neighbours have", agentNeighbours, "address.IsMulticast() || address.IsUnspecified()",
		attackNeighbour+"multicast", attackNeighbour+"all"),
	instead("a neighbour's state", agentNeighbours, "\tdefault:\n\t\treturn want, invalid(\"neighbour %v: state", "\tcase 1 << 30:\n\t\treturn want, invalid(\"neighbour %v: state",
		attackNeighbour+"unknown state", attackNeighbour+"negative state"),
	never("a neighbour's flags", agentNeighbours, "n.Flags != 0",
		attackNeighbour+"proxy"),
	never("how many neighbours there are", agentNeighbours, "len(n.neighbours)+len(fresh) > maxNeighbours",
		"guest/agent.TestAttackManyNeighbours"),
	instead("that the loopback is not listed", agentNeighbours, "l.Attrs().Flags&net.FlagLoopback == 0 && len(out) < maxLinks", "len(out) < maxLinks",
		"guest/agent.TestAttackListsLoopback"),
	instead("which volumes a host may ask about", "internal/guest/agent/stats.go", "if !known {", "if !known && false {",
		"guest/agent.TestAttackVolumeStats"),
	instead("how many containers there are", agentContainer, "case len(a.containers) >= maxContainers:", "case false:",
		attackCaps+"containers"),
	instead("how many processes a container has", agentContainer, "len(c.processes) < maxProcesses", "true",
		attackCaps+"processes"),
	instead("how many mounts there are", agentSpec, "if len(asked) > maxMounts {\n\t\treturn nil, invalid(\"%d mounts", "if false {\n\t\treturn nil, invalid(\"%d mounts",
		attackCaps+"mounts"),
	never("how many volumes there are", agentVolume, "len(a.volumes) >= maxVolumes",
		attackCaps+"volumes"),
	instead("how many memory events are kept", "internal/guest/agent/oom.go", "if len(e.pending) == maxContainers {", "if false {",
		"guest/agent.TestAttackOOMEvents/one after the other"),
	instead("how much of a termination message leaves", agentEnd, "max(0, info.Size()-most), most)", "0, info.Size())",
		attackEnd+"a long one"),
	never("where a termination message is mounted", agentEnd, "m.Destination != terminationPath",
		attackEnd+"another file of /dev", attackEnd+"a file of /proc", attackEnd+"over the root"),
	never("how large a terminal is at first", agentSpec, "size.Height > maxWindow || size.Width > maxWindow",
		attackSpec+"huge terminal"),
	instead("that the runtime sends a terminal", "internal/guest/agent/console.go", "unix.TIOCGPTN); err != nil {", "unix.TIOCGPTN); err != nil && false {",
		"guest/agent.TestAttackConsole/a file"),
	instead("that an update gives no devices", "internal/guest/agent/update.go", "\tlimits.Devices = nil\n", "",
		"guest/agent.TestAttackUpdate/*"),
	instead("an interface's flags", agentNetwork, "\tdefault:\n\t\treturn want, invalid(\"interface %s: flags", "\tcase 1 << 31:\n\t\treturn want, invalid(\"interface %s: flags",
		attackInterface+"flags", attackInterface+"flags beside"),

	// containers and the sandbox
	instead("hooks", agentSpec, "len(hooks.CreateContainer)+len(hooks.StartContainer) > 0:", "len(hooks.CreateContainer)+len(hooks.StartContainer) > 1<<10:",
		attackSpec+"prestart hook", attackSpec+"start hook"),
	never("the guest's namespaces", agentSpec, `n.GetPath() != ""`,
		attackSpec+"guest's namespace"),
	never("whose a kernel setting is", agentSpec, "!slices.Contains(ownSettings, name)",
		attackSpec+"sysctl", attackSpec+"sysctl of the guest", attackSpec+"sysctl by path"),
	never("what a kernel setting is", agentSpec, `len(value) > maxSetting || strings.Trim(value, "0123456789 \t") != ""`,
		attackSpec+"sysctl of text", attackSpec+"long sysctl"),
	never("devices", agentSpec, "!defaultDevice(d.GetPath())",
		attackSpec+"block device"),
	instead("whether a mount is one of a device", agentSpec, "\tdefault:\n\t\treturn specs.Mount{}, invalid(\"mount %.200q: type", "\tcase \"none\":\n\t\treturn specs.Mount{}, invalid(\"mount %.200q: type",
		attackSpec+"host's disk"),
	instead("options of mounts", agentSpec, "\t\tdefault:\n\t\t\treturn specs.Mount{}, invalid(\"mount %.200q: option", "\t\tcase o == \"none\":\n\t\t\treturn specs.Mount{}, invalid(\"mount %.200q: option",
		attackSpec+"shared", attackSpec+"with devices", attackSpec+"id mapped", attackSpec+"tmpfs option"),
	instead("mounts over the kernel's file systems", agentSpec, `path == kernel || strings.HasPrefix(path, kernel+"/")`, `kernel == ""`,
		attackSpec+"over proc", attackSpec+"over dev", attackTermination+"a copied file", attackTermination+"a file of /proc",
		attackTermination+"another file of /dev", attackTermination+"deeper"),
	instead("mounts over the root", agentSpec, ` && path != "/"`, "",
		attackSpec+"over the root", attackTermination+"over the root"),
	instead("that paths are clean", agentSpec, "filepath.IsAbs(path) && filepath.Clean(path) == path", "filepath.IsAbs(path)",
		attackSpec+"unclean"),
	never("where a volume lies", agentVolume, `!ok || filepath.Clean(path) != path || len(path) > unix.PathMax-1`,
		"guest/agent.TestAttackVolumeOfAnotherPlace"),
	never("how deep a volume lies", agentVolume, "len(elements) > 2",
		attackVolumes+"deep"),
	never("the sandbox's own files", agentVolume, "path == filepath.Join(a.Dir, file)",
		attackVolumes+"resolv.conf"),
	instead("drivers of volumes", agentVolume, "\tdefault:\n\t\treturn invalid(\"storage driver", "\tcase \"none\":\n\t\treturn invalid(\"storage driver",
		attackVolumes+"block device", attackVolumes+"scsi", attackVolumes+"virtio-fs", attackVolumes+"pmem", attackVolumes+"bind",
		attackVolumes+"no driver"),
	instead("volumes in volumes", agentVolume, `strings.HasPrefix(path, other+"/") || strings.HasPrefix(other, path+"/")`, "false",
		"guest/agent.TestAttackVolumeInAVolume/below a volume", "guest/agent.TestAttackVolumeInAVolume/around a volume"),
	instead("volumes in shared memory", agentVolume, `strings.HasPrefix(path, shared+"/")`, "shared == \"\"",
		"guest/agent.TestAttackVolumeInAVolume/below the memory that all can write"),
	passes("a container's name", agentContainer, `checkIdentifier("container id", r.ContainerId)`,
		attackCreate+"a path as id"),
	never("the sandbox's own name", agentContainer, "r.ContainerId == sandboxDir",
		attackCreate+"the sandbox's name"),
	instead("devices of the host", agentContainer, "case len(r.Devices) > 0:", "case false:",
		attackCreate+"a device"),
	instead("where an image is mounted", agentContainer, "image.MountPoint != want", "false && want == \"\"",
		attackCreate+"an image elsewhere"),
	instead("that there is one image", agentContainer, "if image != nil {\n\t\t\treturn nil, invalid(\"two", "if false {\n\t\t\treturn nil, invalid(\"two",
		attackCreate+"two images"),
	instead("guest hooks", agentSandbox, `case r.GuestHookPath != "":`, "case false:",
		attackSandbox+"a hook"),
	instead("kernel modules", agentSandbox, "case len(r.KernelModules) > 0:", "case false:",
		attackSandbox+"a kernel module"),
	instead("host names", agentSandbox, `strings.Contains(name, ".") || !domainName(name, false)`, "false",
		attackSandbox+"lines in its name", "guest/agent.TestAttackHostname"),
	instead("names of the loopback", agentSandbox, `lower == "localhost" || strings.HasPrefix(lower, "ip6-")`, `lower == ""`,
		"guest/agent.TestAttackHostname"),
	instead("names of other hosts", agentSandbox, `strings.Contains(name, ".") || `, "",
		"guest/agent.TestAttackHostname"),
	instead("name servers that vouch for their answers", agentSandbox, `strings.HasPrefix(w, "trust-ad")`, `w == ""`,
		"guest/agent.TestAttackTrustedAnswers"),
	never("what is masked in a container", agentSpec, `!strings.HasPrefix(p, "/proc/") && !strings.HasPrefix(p, "/sys/")`,
		"guest/agent.TestAttackMaskedImage"),
	instead("packet sockets", "internal/guest/agent/seccomp.go", "{unix.AF_UNIX, unix.AF_INET6, unix.AF_NETLINK}",
		"{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}",
		"guest/agent.TestAttackPacketSocket"),
	instead("sockets to the host", "internal/guest/agent/seccomp.go", "{unix.AF_UNIX, unix.AF_INET6, unix.AF_NETLINK}",
		"{unix.AF_UNIX, unix.AF_INET6, unix.AF_NETLINK, unix.AF_VSOCK}",
		"guest/agent.TestAttackVsockInWideArgument"),
	instead("addresses past the policy", "internal/guest/boot/lockdown.go", "net/ipv6/conf/*/accept_ra", "net/ipv6/conf/all/accept_ra",
		"guest/boot.TestAttackRouterAdvertisement"),
	instead("options of volumes", agentVolume, "\t\tdefault:\n\t\t\terr = errors.New(\"not known\")", "",
		attackVolumes+"option"),
	never("a second sandbox", agentSandbox, "a.sandbox != nil",
		attackSandbox+"a second one"),
	instead("what a name server's line may say", agentSandbox, "\t\tdefault:\n\t\t\terr = ", "\t\tcase \"\":\n\t\t\terr = ",
		attackSandbox+"lines for hosts"),
)
