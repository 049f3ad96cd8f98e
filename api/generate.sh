#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Regenerates the Go code under api/ from the .proto files. Needs protoc 3.21 or newer with the well-known types
# (Debian: protobuf-compiler, libprotobuf-dev); the two plugins are built at pinned versions.
# ttrpc stubs only: no gRPC is generated.
set -eu

cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN=$bin go install github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc@v1.2.10

for room in agent aa cdh; do
	rm -f "api/$room"/*.pb.go
	protoc -I . \
		--plugin=protoc-gen-go="$bin/protoc-gen-go" --go_out=. --go_opt=paths=source_relative \
		--plugin=protoc-gen-go-ttrpc="$bin/protoc-gen-go-ttrpc" --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative \
		"api/$room"/*.proto
done

# protoc-gen-go carries the licence line of the .proto file over; the ttrpc generator does not.
for file in api/*/*_ttrpc.pb.go; do
	sed -i '1i // SPDX-License-Identifier: Apache-2.0\n' "$file"
done
gofmt -w api
