"""Makes keras_question_small.npz: what Keras computes for a small sibling of the question's network.

Run it where TensorFlow is installed (the file was made with 2.19.0); the tests need the file alone.
"""

from pathlib import Path

import numpy as np
from tensorflow import keras

layers = keras.layers
keras.utils.set_random_seed(4)
x = image = keras.Input((8, 16, 24, 1))
for channels in (3, 4, 5):
    x = layers.Conv3D(channels, 2, padding="same", activation="relu", bias_initializer="random_normal")(x)
    x = layers.MaxPooling3D(2)(x)
x = layers.Dense(7, activation="relu", bias_initializer="random_normal")(layers.Flatten()(x))
heads = [layers.Dense(3, bias_initializer="random_normal")(x) for _ in ("mu", "logvar")]
model = keras.Model(image, heads)

voxels = np.random.default_rng(4).integers(0, 256, (8, 16, 24), np.uint8)
mu, logvar = model.predict(voxels[None, ..., None].astype(np.float32) / 255, verbose=0)
arrays = {f"weight{number}": weight for number, weight in enumerate(model.get_weights())}
np.savez_compressed(
    Path(__file__).with_name("keras_question_small.npz"), voxels=voxels, mu=mu[0], logvar=logvar[0], **arrays
)
