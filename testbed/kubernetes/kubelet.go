package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// kubelet runs every pod of its cluster, and places those that nobody placed: there is one node.
type kubelet struct {
	settings settings
	client   kubernetes.Interface
	mutex    sync.Mutex
	pods     map[types.UID]*pod
	next     netip.Addr
	cables   int
}

func newKubelet(s settings, client kubernetes.Interface) *kubelet {
	first := netip.MustParseAddr(podGateway).Next()
	return &kubelet{settings: s, client: client, pods: map[types.UID]*pod{}, next: first}
}

// register makes the Node, with an address, a zone and room for everything.
func (k *kubelet) register(ctx context.Context) error {
	region, _, _ := strings.Cut(k.settings.zone, "-")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: k.settings.name,
		Labels: map[string]string{
			corev1.LabelHostname:       k.settings.name,
			corev1.LabelTopologyRegion: region,
			corev1.LabelTopologyZone:   k.settings.zone,
			corev1.LabelOSStable:       "linux",
		},
	}}
	created, err := k.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("64"),
		corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods:   resource.MustParse("1000"),
	}
	created.Status = corev1.NodeStatus{
		Capacity: room, Allocatable: room,
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: k.settings.address}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: kubeletPort}},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Testbed",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		}},
	}
	_, err = k.client.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}

// run follows the API server's pods until the context ends.
func (k *kubelet) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- k.serve(ctx) }()
	factory := informers.NewSharedInformerFactory(k.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { k.see(ctx, object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { k.see(ctx, object.(*corev1.Pod)) },
		DeleteFunc: func(object any) {
			if gone, lost := object.(cache.DeletedFinalStateUnknown); lost {
				object = gone.Obj
			}
			if found, is := object.(*corev1.Pod); is {
				k.forget(found.UID)
			}
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		return err
	}
}

// see compares what the API server wants with what runs. It never waits for a pod.
func (k *kubelet) see(ctx context.Context, wanted *corev1.Pod) {
	if wanted.Spec.NodeName == "" {
		if wanted.DeletionTimestamp == nil {
			go k.place(ctx, wanted)
		}
		return
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	known := k.pods[wanted.UID]
	switch {
	case known == nil && wanted.DeletionTimestamp != nil:
		// It was never started here, so nothing has to end.
		go k.remove(ctx, wanted.Namespace, wanted.Name, wanted.UID)
	case known == nil:
		started := newPod(k, wanted.DeepCopy(), k.address(), k.cable())
		k.pods[wanted.UID] = started
		go started.live(ctx)
	case wanted.DeletionTimestamp != nil:
		known.end()
	}
}

func (k *kubelet) place(ctx context.Context, wanted *corev1.Pod) {
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: wanted.Namespace, Name: wanted.Name, UID: wanted.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: k.settings.name},
	}
	err := k.client.CoreV1().Pods(wanted.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		log.Printf("%s/%s cannot be placed: %v", wanted.Namespace, wanted.Name, err)
	}
}

// remove tells the API server that nothing of a pod is left.
func (k *kubelet) remove(ctx context.Context, namespace, name string, uid types.UID) {
	now := int64(0)
	options := metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid},
	}
	err := k.client.CoreV1().Pods(namespace).Delete(ctx, name, options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		log.Printf("%s/%s cannot be removed: %v", namespace, name, err)
	}
}

func (k *kubelet) forget(uid types.UID) {
	k.mutex.Lock()
	known := k.pods[uid]
	delete(k.pods, uid)
	k.mutex.Unlock()
	if known != nil {
		known.kill()
	}
}

func (k *kubelet) find(namespace, name string) (*pod, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for _, known := range k.pods {
		if known.object.Namespace == namespace && known.object.Name == name {
			return known, nil
		}
	}
	return nil, fmt.Errorf("no pod %s/%s runs here", namespace, name)
}

func (k *kubelet) stop() {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	for _, known := range k.pods {
		known.kill()
	}
}

// address gives the next address out; none comes twice in a cluster's life.
func (k *kubelet) address() string {
	given := k.next
	k.next = given.Next()
	return given.String()
}

func (k *kubelet) cable() string {
	k.cables++
	return fmt.Sprintf("pod%d", k.cables)
}

// until repeats what the API server may refuse for a moment, and says so when it gives up.
func until(ctx context.Context, what string, attempt func() error) error {
	var err error
	for pause := 50 * time.Millisecond; pause < 30*time.Second; pause *= 2 {
		if err = attempt(); err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}
