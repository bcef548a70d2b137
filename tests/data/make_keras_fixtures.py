"""Makes the Keras files in this folder, and keras_expected.npz: what Keras itself computes with them.

    python make_keras_fixtures.py                          Keras 3 (made with TensorFlow 2.19.0, Keras 3.15.1)
    TF_USE_LEGACY_KERAS=1 python make_keras_fixtures.py    Keras 2 (tf_keras 2.19.0): the files keras2_*

Run it where TensorFlow is installed; the tests need the files alone. All networks are tiny. Weights are from a seed,
biases are not 0. For each model NAME the npz has NAME/voxels (uint8, to be divided by 255), NAME/mu and NAME/logvar.
"""

import os
from pathlib import Path

import numpy as np

LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") == "1"
if LEGACY:
    import tf_keras as keras
else:
    import keras

HERE = Path(__file__).parent
layers = keras.layers
N = "random_normal"


class Sampling(layers.Layer):
    """A reparametrisation as users write it: a class of their own."""

    def call(self, inputs):
        mean, log_var = inputs
        return mean + keras.backend.exp(0.5 * log_var) * 0.1 if LEGACY else mean + keras.ops.exp(0.5 * log_var) * 0.1


def question(heads="linear", names=("z_mean", "z_log_var"), sampling=False, branch=False):
    x = image = keras.Input((8, 16, 24, 1))
    for channels in (3, 4, 5):
        x = layers.Conv3D(channels, 2, padding="same", activation="relu", bias_initializer=N)(x)
        x = layers.MaxPooling3D(2)(x)
    x = layers.Flatten()(x)
    if branch:
        layers.Dense(2, name="nowhere")(layers.Reshape((5, 3, 2))(x))
    x = layers.Dense(7, activation="relu", bias_initializer=N)(x)
    mu, logvar = (layers.Dense(3, activation=heads, bias_initializer=N, name=name)(x) for name in names)
    return keras.Model(image, [mu, logvar, *([Sampling()([mu, logvar])] if sampling else [])], name="encoder")


def sibling():
    """Every layer that the bridge knows; odd sizes, even kernels, strides; heads that only the sampling layer tells."""
    image = keras.Input((9, 14, 11, 1))
    x = layers.Rescaling(2.0, offset=-1.0)(image)
    x = layers.Conv3D(4, (2, 3, 4), strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(epsilon=0.01, name="norm")(x)
    x = layers.LeakyReLU(0.1)(x)
    x = layers.ZeroPadding3D(((0, 1), (1, 0), (2, 2)))(x)
    x = layers.AveragePooling3D(2, strides=(1, 2, 1), padding="same")(x)
    a = layers.Conv3D(6, 3, padding="same", dilation_rate=2, activation="elu", bias_initializer=N)(x)
    b = layers.Conv3D(6, 2, padding="same", activation="swish", groups=2, bias_initializer=N)(x)
    x = layers.Add(name="Sum.of-two")([a, b])
    x = layers.SpatialDropout3D(0.2)(x)
    x = layers.Concatenate()([x, layers.Activation("softplus")(a)])
    pooled = layers.GlobalAveragePooling3D()(x)
    highest = layers.GlobalMaxPooling3D()(x)
    x = layers.MaxPooling3D((2, 2, 2), strides=2, padding="same")(x)
    x = layers.Conv3D(2, (2, 2, 2), strides=(1, 2, 1), padding="valid", activation="tanh")(x)
    x = layers.AveragePooling3D((2, 1, 2))(x)
    x = layers.Dense(3, activation="sigmoid", bias_initializer=N)(x)
    x = layers.Reshape((-1, 3))(x)
    x = layers.Concatenate(name="all")([layers.Flatten()(x), pooled, highest])
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(6, activation="gelu" if not LEGACY else "selu", bias_initializer=N)(x)
    x = layers.ReLU(max_value=1.5, negative_slope=0.05, threshold=0.01)(x)
    first, second = layers.Dense(4, bias_initializer=N)(x), layers.Dense(4, bias_initializer=N)(x)
    return keras.Model(image, [first, second, Sampling()([first, second])])


def nested():
    """A Sequential body inside of a Functional model."""
    body = keras.Sequential(
        [
            keras.Input((6, 6, 8, 1)),
            layers.Conv3D(3, 3, activation="relu", bias_initializer=N),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling3D(),
            layers.Dense(5, activation="tanh", bias_initializer=N),
        ],
        name="body",
    )
    image = keras.Input((6, 6, 8, 1))
    x = body(image)
    return keras.Model(image, [layers.Dense(2, name="mu")(x), layers.Dense(2, name="log_var")(x)])


def lambdas(inside):
    """A Lambda whose code would write a file: as the sampling at the end, or on the way to the heads."""
    x = image = keras.Input((4, 4, 4, 1))
    x = layers.Conv3D(2, 2, activation="relu")(x)
    if inside:
        x = layers.Lambda(writing("v * 2"), name="doubles")(x)
    x = layers.Flatten()(x)
    mu, logvar = layers.Dense(2, name="m")(x), layers.Dense(2, name="v")(x)
    z = layers.Lambda(writing("v[0] + v[1]"), name="z")([mu, logvar])
    return keras.Model(image, [mu, logvar, z])


def writing(value):
    """A lambda with a trace in the working folder; compiled here so that the file does not say where it was made."""
    return eval(compile(f"lambda v: (open('keras_lambda_ran', 'w').close(), {value})[1]", "lambda", "eval"))


def compute(model, seed):
    """{voxels, mu, logvar} by Keras; the moving statistics of BatchNormalization are made uneven first."""
    rng = np.random.default_rng(seed)
    for layer in [inner for outer in model.layers for inner in getattr(outer, "layers", [outer])]:
        if isinstance(layer, layers.BatchNormalization):
            weights = [rng.uniform(0.3, 2.0, weight.shape).astype(np.float32) for weight in layer.get_weights()]
            layer.set_weights(weights)
    voxels = rng.integers(0, 256, (2, *model.input_shape[1:4]), np.uint8)
    outputs = model.predict(voxels[..., None].astype(np.float32) / 255, verbose=0)
    return {"voxels": voxels, "mu": outputs[0], "logvar": outputs[1]}


def keras2():
    keras.utils.set_random_seed(2)
    expected, model = {}, question()
    expected |= {f"keras2_question/{key}": value for key, value in compute(model, 2).items()}
    model.save(HERE / "keras2_question.h5")
    model.save_weights(HERE / "keras2_question_weights.h5")
    model = sibling()
    expected |= {f"keras2_sibling/{key}": value for key, value in compute(model, 2).items()}
    model.save(HERE / "keras2_sibling.keras")
    model.save(HERE / "keras2_sibling.h5")
    model = nested()
    expected |= {f"keras2_nested/{key}": value for key, value in compute(model, 2).items()}
    model.save(HERE / "keras2_nested.h5")
    np.savez_compressed(HERE / "keras2_expected.npz", **expected)


def keras3():
    models = {
        "keras_question": question(names=("z_mean", "z_log_var")),
        "keras_question_relu": question("relu", sampling=True, branch=True),
        "keras_sibling": sibling(),
        "keras_nested": nested(),
        "keras_lambda_end": lambdas(inside=False),
        "keras_lambda_inside": lambdas(inside=True),
    }
    expected = {}
    for name, model in models.items():
        expected |= {f"{name}/{key}": value for key, value in compute(model, 3).items()}
        model.save(HERE / f"{name}.keras")
    for name in ("keras_question", "keras_sibling", "keras_nested"):
        models[name].save(HERE / f"{name}.h5")
    models["keras_question"].save_weights(HERE / "keras_question.weights.h5")
    models["keras_question_relu"].save_weights(HERE / "keras_question_relu.weights.h5")
    np.savez_compressed(HERE / "keras_expected.npz", **expected)


def named_outputs():
    """Outputs in a dictionary, which Keras numbers by its keys; LayerNormalization and PReLU over several axes."""
    scattered = keras.initializers.RandomNormal(stddev=0.3)
    norm, slope = {"gamma_initializer": scattered, "beta_initializer": scattered}, {"alpha_initializer": scattered}
    x = image = keras.Input((6, 6, 8, 1))
    x = layers.Conv3D(3, 3, bias_initializer=N)(x)
    x = layers.LayerNormalization(**norm)(x)
    x = layers.PReLU(**slope)(x)
    x = layers.Conv3D(4, 2, bias_initializer=N)(x)
    x = layers.LayerNormalization(axis=[1, 2, 3, 4], epsilon=0.01, **norm)(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], **slope)(x)
    x = layers.Dense(7, bias_initializer=N)(layers.Flatten()(x))
    x = layers.LayerNormalization(center=False, gamma_initializer=scattered)(x)
    x = layers.PReLU(**slope)(x)
    first, second = layers.Dense(3, bias_initializer=N)(x), layers.Dense(3, bias_initializer=N)(x)
    return keras.Model(image, {"z_mean": first, "z_log_var": second})


def heads():
    """keras_named_outputs*.keras, keras_mean.keras and keras_heads_expected.npz."""
    keras.utils.set_random_seed(5)
    encoder, image = named_outputs(), keras.Input((6, 6, 8, 1))
    voxels = np.random.default_rng(5).integers(0, 256, (2, 6, 6, 8), np.uint8)
    windows = voxels[..., None].astype(np.float32) / 255
    outputs = encoder.predict(windows, verbose=0)
    computed = {"voxels": voxels, "mu": outputs["z_mean"], "logvar": outputs["z_log_var"]}
    whole = encoder(image)
    nested_vae = keras.Model(image, layers.Dense(5)(Sampling()([whole["z_mean"], whole["z_log_var"]])))
    encoder.save(HERE / "keras_named_outputs.keras")
    nested_vae.save(HERE / "keras_named_outputs_nested.keras")
    names = ("keras_named_outputs", "keras_named_outputs_nested")
    expected = {f"{name}/{key}": value for name in names for key, value in computed.items()}
    x = layers.GlobalAveragePooling3D()(layers.Conv3D(3, 3, activation="relu", bias_initializer=N)(image))
    mean = keras.Model(image, layers.Dense(4, name="z_mean", bias_initializer=N)(x))
    mean.save(HERE / "keras_mean.keras")
    expected |= {"keras_mean/voxels": voxels, "keras_mean/mu": mean.predict(windows, verbose=0)}
    np.savez_compressed(HERE / "keras_heads_expected.npz", **expected)


def question_small():
    """keras_question_small.npz: the question's weights in Keras' order, for a test that copies them by hand."""
    keras.utils.set_random_seed(4)
    model = question(names=("mu", "logvar"))
    made = compute(model, 4)
    arrays = {f"weight{number}": weight for number, weight in enumerate(model.get_weights())}
    one = {key: value[0] for key, value in made.items()}
    np.savez_compressed(HERE / "keras_question_small.npz", **one, **arrays)


if __name__ == "__main__":
    keras.utils.set_random_seed(3)
    if LEGACY:
        keras2()
    else:
        keras3()
        question_small()
        heads()
    Path("keras_lambda_ran").unlink(missing_ok=True)
