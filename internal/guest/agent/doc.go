// SPDX-License-Identifier: Apache-2.0

// Package agent is what the host talks to: the Kata agent protocol over ttrpc, and the containers behind it.
//
// Every request passes one gate (Gate) before its handler sees it: the agent policy is asked for the rule that bears
// the request message's name, and anything but an explicit yes is a refusal. The policy is given when the server is
// made and cannot be replaced. What the policy allows is still checked: requests come from the adversary, so names,
// paths, addresses and sizes have limits of their own, and a container gets secure settings whatever was asked for
// (spec.go). A handler that panics refuses the request and nothing else.
//
// The package trusts the policy, the root image with its OCI runtime, and the images that its ImageStore has verified.
// It does not pull or verify images, it does not attest, and it opens no secrets: what sealed ones in a container's
// environment and files stand for comes from its Unsealer, goes to the container, and is not kept (resolve.go). Two
// containers of a pod are kept apart as containers are; the guest around them is the boundary that counts.
//
// # Caps
//
// What is foreign is capped, here with the test that asks for more:
//
//	maxFrame         4<<20   TestAttackFrames              bytes of one ttrpc message
//	maxInFlight      256     TestAttackFrames              requests without an answer, of all connections
//	maxInFlightSize  16<<20  TestAttackFrames              their bytes
//	maxRequest       512<<10 TestAttackEncoding            bytes of a request
//	maxStreamRequest 4<<20   TestAttackEncoding            of one that writes to a stream
//	maxCopyRequest   2<<20   TestAttackCaps                of one that copies a file
//	maxOps           64      TestAttackAnswersThatAreNoYes operations in a policy's answer
//	maxStateKeys     4096    TestAttackAnswersThatAreNoYes entries of a policy's state
//	maxDepth         8       TestAttackCaps                elements of a path in it
//	maxErrorText     2048    TestAttackCaps                bytes of an error's text
//	maxContainers    64      TestAttackCaps                containers of the pod; memory events that nobody asked for
//	maxProcesses     64      TestAttackCaps                executed in one container
//	maxPids          16384   TestAttackCaps                processes of one container
//	maxSignal        64      TestAttackCaps                the highest signal
//	maxRead          64<<10  TestBackPressure              bytes read from a stream at once; a pipe is the only buffer
//	maxWindow        4096    TestAttackSpec                rows and columns of a terminal
//	maxWords         4096    TestAttackSpec                arguments, and variables of the environment
//	maxEnv           128<<10 TestAttackSealedEnvironment   bytes of a variable after unsealing
//	maxSealed        256     TestAttackSealedEnvironment   sealed secrets of one container
//	maxGroups        1024    TestAttackSpec                groups of a user
//	maxUserFile      1<<20   TestAttackCaps                bytes read of an image's passwd and group
//	maxMounts        128     TestAttackCaps                mounts of a container; masked and read-only paths
//	maxVolumes       64      TestAttackCaps                volumes of the pod
//	maxSetting       96      TestAttackSpec                bytes of a kernel setting
//	maxTermination   4096    TestAttackTermination         bytes of a termination message
//	maxCopied        4096    TestAttackCopyFileFloods      files, directories and links that are copied in
//	maxCopiedBytes   64<<20  TestAttackCopyFileFloods      their bytes
//	maxCopyDepth     16      TestAttackCopyFilePaths       elements of their paths
//	maxPartial       16      TestAttackCopyFileFloods      files that are on their way
//	maxAddresses     16      TestAttackCaps                addresses of an interface
//	maxRoutes        64      TestAttackCaps                routes
//	maxNeighbours    256     TestAttackManyNeighbours      neighbours
//	maxLinks         64      TestAttackListsLoopback       interfaces that are listed
//	maxMTU           65535   TestAttackCaps                bytes of a packet
//	maxNameServers   3       TestAttackCaps                name servers
//	maxSearch        32      TestAttackCaps                search domains, and options of the resolver
//	maxDNSLines      64      TestAttackCaps                lines of DNS configuration
//	maxGroupFile     64<<10  TestAttackCaps                bytes read of a control group's file
//	maxGroupValues   512     TestAttackGroupFiles          values of it
//	maxRuntimeLog    64<<10  TestAttackCaps                bytes read of the runtime's log
//
// The size of a tmpfs is capped by the memory that all containers together have (package boot), and so is what they write.
package agent
