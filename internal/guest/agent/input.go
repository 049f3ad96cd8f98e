// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nacre-project/nacre/api/agent"
)

// requestInput is a request as the policy sees it: [messageInput], and for files that are copied what Kata's agent makes of
// them. In place of the data there are file_type ("Regular", "Directory", "Symlink" or "Unknown") and symlink_target (null for
// others), as there, and data_sha256 in hex, by which a policy can say what is in a file.
func requestInput(request proto.Message) map[string]any {
	r, ok := request.(*agent.CopyFileRequest)
	if !ok {
		return messageInput(request.ProtoReflect())
	}
	input := messageInput((&agent.CopyFileRequest{
		Path: r.Path, FileSize: r.FileSize, FileMode: r.FileMode, DirMode: r.DirMode, Uid: r.Uid, Gid: r.Gid, Offset: r.Offset,
	}).ProtoReflect())
	delete(input, "data")
	digest := sha256.Sum256(r.Data)
	input["data_sha256"] = hex.EncodeToString(digest[:])
	input["file_type"], input["symlink_target"] = "Unknown", nil
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFREG:
		input["file_type"] = "Regular"
	case unix.S_IFDIR:
		input["file_type"] = "Directory"
	case unix.S_IFLNK:
		input["file_type"] = "Symlink"
		input["symlink_target"] = strings.ToValidUTF8(string(r.Data), "\uFFFD") // one that is not is refused later
	}
	return input
}

// messageInput is a request as the policy sees it: an object with every field under its name in the .proto file, set
// or not, so that a rule need not tell the two apart. Absent messages are null, lists and maps are there though empty,
// enumerations and integers of all widths are numbers, and bytes are base64 (standard, padded).
//
// A field named type appears as type_ as well: policies for Kata's agent know it by that name.
func messageInput(m protoreflect.Message) map[string]any {
	fields := m.Descriptor().Fields()
	object := make(map[string]any, fields.Len())
	for i := range fields.Len() {
		field := fields.Get(i)
		name := string(field.Name())
		object[name] = fieldInput(m, field)
		if name == "type" {
			object["type_"] = object[name]
		}
	}
	return object
}

func fieldInput(m protoreflect.Message, field protoreflect.FieldDescriptor) any {
	switch {
	case field.IsMap():
		object := map[string]any{}
		m.Get(field).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			object[k.String()] = valueInput(field.MapValue(), v)
			return true
		})
		return object
	case field.IsList():
		list := m.Get(field).List()
		out := make([]any, list.Len())
		for i := range out {
			out[i] = valueInput(field, list.Get(i))
		}
		return out
	case field.HasPresence() && !m.Has(field):
		return nil
	}
	return valueInput(field, m.Get(field))
}

func valueInput(field protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch field.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return messageInput(v.Message())
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes())
	case protoreflect.EnumKind:
		return json.Number(strconv.FormatInt(int64(v.Enum()), 10))
	case protoreflect.BoolKind:
		return v.Bool()
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return json.Number(strconv.FormatUint(v.Uint(), 10))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if f := v.Float(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
		return nil
	}
	return json.Number(strconv.FormatInt(v.Int(), 10))
}
