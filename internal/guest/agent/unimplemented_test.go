// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// refusedMethods are the methods that this guest answers with UNIMPLEMENTED. All others it must have.
const refusedMethods = `UpdateEphemeralMounts RemoveStaleVirtiofsShareMounts GetIPTables SetIPTables
	MemAgentMemcgSet MemAgentCompactSet OnlineCPUMem ReseedRandomDev MemHotplugByProbe SetGuestDateTime AddSwap
	AddSwapPath ResizeVolume SetPolicy`

// TestEveryMethodIsDecided walks over every method of the protocol: each is either answered, or refused with a reason, and
// which of the two stands above. One that is new to the protocol is in neither.
func TestEveryMethodIsDecided(t *testing.T) {
	no := map[protoreflect.Name]bool{}
	for _, name := range strings.Fields(refusedMethods) {
		no[protoreflect.Name(name)] = true
	}
	for _, m := range everyMethod(t) {
		if m.Parent().Name() == "Health" {
			continue
		}
		_, has := reflect.TypeFor[*Agent]().MethodByName(string(m.Name()))
		method := reflect.ValueOf(unimplemented{}).MethodByName(string(m.Name()))
		if has == method.IsValid() || no[m.Name()] != method.IsValid() {
			t.Errorf("%s: answered %v, refused %v, to be refused %v", m.Name(), has, method.IsValid(), no[m.Name()])
			continue
		}
		delete(no, m.Name())
		if has {
			continue
		}
		request := newMessage(t, m.Input())
		err, _ := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), reflect.ValueOf(request)})[1].Interface().(error)
		_, why, found := strings.Cut(status.Convert(err).Message(), " is not implemented by this guest: ")
		if status.Code(err) != codes.Unimplemented || !found || why == "" {
			t.Errorf("%s: %v", m.Name(), err)
		}
	}
	if len(no) > 0 {
		t.Errorf("no methods: %v", no)
	}
}
